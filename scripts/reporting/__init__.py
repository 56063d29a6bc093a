"""The report page: one HTML file with what a run heard, painted and measured, made of parts that know no command line.

`found` reads what runs leave behind, `sample` chooses sentences and paints them, `media` turns pictures and sounds into
data: URIs, `settings` says what differs from the published method, `charts` draws lines as SVG, `sections` lays the page
out, and `markup` writes HTML in which every text is escaped.
"""
