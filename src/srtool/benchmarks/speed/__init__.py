"""How fast engines are: `srtool bench`."""
