//go:build !go1.27

package benchmarks

var jsonV2 []Contender
