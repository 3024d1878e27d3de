"""What is searched: spaces and their files, the objective, and the published settings.

Nothing here trains, or knows Ray.
"""
