"""Write report.html: everything a study shows, in one file that loads nothing and needs no script
(page.py)."""
