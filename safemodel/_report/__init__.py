"""Reports for people: as lines of text, and as a page of HTML.

`words` says things in a few words, for the command line, too. No file is read here but
the template of the page.
"""
