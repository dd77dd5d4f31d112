//go:build !unix

package main

func useProcessorTime() {}
