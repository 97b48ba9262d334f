"""The robot side's pure core: samples in, bounded commands out. Time and the processor are arguments."""
