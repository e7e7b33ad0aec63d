"""`doctor`: checks everything that the service needs, and tells how to mend what is wrong.

A check passes or fails, with what was found and a remedy; a warning passes, with a remedy. An error in one
check does not end the others. If a pooler loses prepared statements, the other checks of the database are
left out, because they would fail for that reason alone.
"""
