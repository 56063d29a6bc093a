"""The report page: one self-contained HTML file with what some runs heard, generated and measured.

Which runs are meant: `runs`. What they left behind: `run_records`, `ablation`. What is shown of the test split:
`sentences`. `page_data` brings it together, and `published_settings`, `sections` and `figures` make the rows and charts
of it that the templates lay out; `words` and `media` are the templates' filters. No part knows a command line, and only
templates hold HTML.
"""
