package mailtrapwebhook

import (
	"errors"
	"net/http"
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestGuardFaultKnowsGuardsThatAreSetUpWrongly(t *testing.T) {
	for name, guard := range map[string]Guard{
		"BasicAuth without a name":       BasicAuth("", "x"),
		"BasicAuth with a blank":         BasicAuth("x", "\n"),
		"QueryToken without a name":      QueryToken(" ", "x"),
		"QueryToken without a token":     QueryToken("x", ""),
		"a nil IPAllowlist":              (*IPAllowlist)(nil).Guard(),
		"an IPAllowlist of a bad proxy":  NewIPAllowlist(IPRanges(), netip.Prefix{}).Guard(),
		"one that is kept as a function": func() Guard { f := BasicAuth("", ""); return f }(),
	} {
		require.Error(t, guardFault(guard), name)
		require.Equal(t, guard(new(http.Request)), guardFault(guard), name)
	}
	for name, guard := range map[string]Guard{
		"BasicAuth":              BasicAuth("x", "y"),
		"QueryToken":             QueryToken("x", "y"),
		"an IPAllowlist":         NewIPAllowlist(IPRanges()).Guard(),
		"one to be set later":    new(IPAllowlist).Guard(),
		"a caller's, not called": func(*http.Request) error { t.Error("called"); return errors.New("x") },
		"nil":                    nil,
	} {
		require.NoError(t, guardFault(guard), name)
	}
}
