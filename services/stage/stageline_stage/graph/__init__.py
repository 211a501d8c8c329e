"""Block graphs: the allow-list of operators, the JSON form, and the way back to something that runs."""
