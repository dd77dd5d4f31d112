// Package diagnose explains why an HMAC-SHA256 signature does not match a body.
//
// Its tables list what often happens to a body, a secret or a signature between
// the sender and the check. Each change has a function that undoes it. [Mismatch]
// undoes one change to each of the three and computes the HMAC again. If that
// matches, the changes are the cause. If nothing matches, Mismatch names what
// looks wrong.
//
// Anyone can send a wrong signature, so the work is bounded for every input.
package diagnose

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"slices"
	"strings"
)

// Bounds of the work. One secret has about 4 variants and a body about 20, so
// that most combinations are tried. A body of 1 MiB gets all 96 tries, in about
// 60 ms with SHA instructions; a larger one gets fewer.
const (
	maxMACs   = 96
	maxHashed = 96 << 20 // bytes, over all tries
)

// maxCopied is the size of the largest body that is copied and scanned.
const maxCopied = 8 << 20

// Mismatch says why signature is not the HMAC of body under any of the secrets,
// and what to do. header is the name of the header that holds the signature. The
// text is a cause, a colon and a fix. It holds nothing of the arguments but
// header.
func Mismatch(header string, body []byte, signature string, secrets []string) string {
	digests := digestVariants(header, signature)
	found, complete := prove(body, digests, keyVariants(secrets))
	if len(found) == 0 {
		found = []finding{suspect(header, body, signature, secrets, complete)}
	}
	return sentence(found)
}

// A finding is a cause of a mismatch and what to do about it.
type finding struct{ cause, fix string }

func sentence(found []finding) string {
	var causes, fixes []string
	for _, f := range found {
		causes = append(causes, f.cause)
		// Two changes to one value often have the same fix.
		if !slices.Contains(fixes, f.fix) {
			fixes = append(fixes, f.fix)
		}
	}
	return strings.Join(causes, ", and ") + ": " + strings.Join(fixes, ", and ")
}

// A change is something that happens to a value on its way.
type change struct {
	finding

	// undo returns the value before the change. It returns nil if the change
	// cannot have led to the value, and must not modify it.
	undo func(received []byte) []byte
}

// A variant is a value without the changes that the findings name.
type variant struct {
	value    []byte
	findings []finding
}

// variants returns a small value as received, and without at most one change of
// each stage.
func variants(received []byte, stages ...[]change) []variant {
	all := []variant{{value: received}}
	for _, stage := range stages {
		for _, v := range all {
			for _, c := range stage {
				before := c.undo(v.value)
				// Of equal values the first has the fewest changes.
				known := func(v variant) bool { return bytes.Equal(v.value, before) }
				if len(before) > 0 && !slices.ContainsFunc(all, known) {
					all = append(all, variant{before, append(slices.Clone(v.findings), c.finding)})
				}
			}
		}
	}
	return all
}

// prove returns the changes without which the signature matches, or none. It
// reports whether it tried all combinations.
func prove(body []byte, digests, keys []variant) (found []finding, complete bool) {
	if len(digests) == 0 {
		return nil, true
	}
	macs, hashed := 0, 0

	// A body and a secret that both changed are rare, so they wait for the second
	// round. It makes the body's variants anew, because keeping them takes memory.
	for _, bothChanged := range []bool{false, true} {
		for b := range bodyVariants(body) {
			for _, k := range keys {
				if bothChanged != (len(b.findings) > 0 && len(k.findings) > 0) {
					continue
				}
				macs, hashed = macs+1, hashed+len(b.value)
				if macs > maxMACs || hashed > maxHashed {
					return nil, false
				}
				if d, ok := matching(digests, mac(k.value, b.value)); ok {
					return slices.Concat(b.findings, k.findings, d.findings), true
				}
			}
		}
	}
	return nil, len(body) <= maxCopied
}

func mac(key, body []byte) []byte {
	h := hmac.New(sha256.New, key)
	h.Write(body)
	return h.Sum(nil)
}

func matching(digests []variant, sum []byte) (variant, bool) {
	i := slices.IndexFunc(digests, func(d variant) bool { return hmac.Equal(sum, d.value) })
	if i < 0 {
		return variant{}, false
	}
	return digests[i], true
}
