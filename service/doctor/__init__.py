"""`doctor`: checks everything that the service needs, and tells how to mend what is wrong.

A check passes or fails, with what was found and a remedy. An error of one check does not end the others; a
pooler that loses prepared statements ends those of the database, which would fail for that reason alone.
"""
