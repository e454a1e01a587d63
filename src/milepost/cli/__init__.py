"""The command line. It imports no framework, and what it shows of a file's text goes through
`milepost.core.text.safe`."""
