package mailtrapwebhook

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"strconv"
)

// Key implements [Event]. It consists of the name, MessageID and EventID.
func (e *SendingWebhookEvent) Key() string { return string(e.appendKey(nil)) }

// Key implements [Event]. It consists of the name, InboxID and MessageID:
// EventID may change when Mailtrap delivers the event again.
func (e *InboundWebhookEvent) Key() string { return string(e.appendKey(nil)) }

// Key implements [Event]. It consists of the name and a digest of Raw.
func (e *ActivityLogWebhookEvent) Key() string { return string(e.appendKey(nil)) }

// Key implements [Event]. It consists of the name and a digest of Raw, and is
// "" if there is no Raw.
func (e *UnknownEvent) Key() string { return string(e.appendKey(nil)) }

func (e *SendingWebhookEvent) appendKey(dst []byte) []byte {
	// EventID alone does not identify an event: samples share it.
	if !isID(e.MessageID) || !isID(e.EventID) {
		return appendDigestKey(dst, e)
	}
	dst = append(append(dst, keyName(e.Name())...), '/')
	dst = append(append(dst, e.MessageID...), '/')
	return append(dst, e.EventID...)
}

func (e *InboundWebhookEvent) appendKey(dst []byte) []byte {
	if e.InboxID == 0 || !isID(e.MessageID) {
		return appendDigestKey(dst, e)
	}
	dst = append(append(dst, keyName(e.Name())...), '/')
	dst = append(strconv.AppendInt(dst, e.InboxID, 10), '/')
	return append(dst, e.MessageID...)
}

func (e *ActivityLogWebhookEvent) appendKey(dst []byte) []byte { return appendDigestKey(dst, e) }

func (e *UnknownEvent) appendKey(dst []byte) []byte {
	if e.Raw == "" {
		return dst
	}
	return appendDigestKey(dst, e)
}

// appendDigestKey appends the name of e and 32 hexadecimal digits that stand for
// its text. An event that was built by hand has none: its JSON stands in.
func appendDigestKey(dst []byte, e Event) []byte {
	text := []byte(e.RawJSON())
	if len(text) == 0 {
		var err error
		if text, err = json.Marshal(e); err != nil {
			return dst
		}
	}
	// Half of a SHA-256 suffices to keep keys apart.
	sum := sha256.Sum256(text)
	dst = append(append(dst, keyName(e.Name())...), '/')
	return hex.AppendEncode(dst, sum[:16])
}

// keyName returns the name as it stands in a key. The name of an unknown kind
// is whatever the body says.
func keyName(name string) string {
	if !isKeyPart(name, true) {
		return "unknown"
	}
	return name
}

func isID(id string) bool { return isKeyPart(id, false) }

// isKeyPart reports whether s can stand in a key as it is. Neither a colon nor
// a line break can, so that a Scope and a colon can stand before a key.
func isKeyPart(s string, blanks bool) bool {
	// Stores limit the length of their keys.
	if s == "" || len(s) > 100 {
		return false
	}
	for i := range len(s) {
		if c := s[i]; !keyBytes[c] && !(blanks && c == ' ') {
			return false
		}
	}
	return true
}

var keyBytes = func() (ok [256]bool) {
	for _, c := range []byte("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-@") {
		ok[c] = true
	}
	return ok
}()
