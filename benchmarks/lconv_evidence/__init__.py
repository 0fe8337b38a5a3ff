"""LC sec. 4 on digits, by two protocols, over paired seeds: what is run is in `setting.py`, what came of it in `page.py`."""
