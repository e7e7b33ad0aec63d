"""Links of a document: making, listing and removing them, in the forms of two vendors."""
