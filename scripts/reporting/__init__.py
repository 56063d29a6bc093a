"""The report page: one HTML file with what some runs heard, painted and measured. Its parts know no command line.

`runs` says which runs are meant, `found` reads what they leave behind, `sample` chooses sentences and paints them, and
`gather` brings it together. `head`, `heard`, `curves`, `numbers` and `context` are the page from top to bottom, with `names`
for words and figures, `media` for pictures and sounds as data: URIs, `settings` for what differs from the published
method, `charts` for lines as SVG, and `markup` for HTML in which every text is escaped. `ablation` makes and reads the
table of scripts/ablate.sh.
"""
