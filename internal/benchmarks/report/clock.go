package main

import "time"

// now returns the time that samples are taken with.
var now = wallTime

var began = time.Now()

func wallTime() time.Duration { return time.Since(began) }
