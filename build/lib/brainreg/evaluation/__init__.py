"""How accurate and how robust a network is: clean, under noise, corruptions and attacks.

Intervals, signs that a number is wrong, and the page that shows it.
"""
