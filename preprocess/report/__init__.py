"""The report: one HTML page that shows an output folder. `page` and `figure` serve other pages."""
