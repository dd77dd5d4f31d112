package mailtrapwebhook

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"strconv"
)

// Key implements [Event]. It consists of the name, MessageID and EventID.
func (e *SendingWebhookEvent) Key() string {
	// EventID alone does not identify an event: samples share it.
	if isID(e.MessageID) && isID(e.EventID) {
		return keyName(e.Name()) + "/" + e.MessageID + "/" + e.EventID
	}
	return digestKey(e, e.Raw)
}

// Key implements [Event]. It consists of the name, InboxID and MessageID:
// EventID may change when Mailtrap delivers the event again.
func (e *InboundWebhookEvent) Key() string {
	if e.InboxID != 0 && isID(e.MessageID) {
		return keyName(e.Name()) + "/" + strconv.FormatInt(e.InboxID, 10) + "/" + e.MessageID
	}
	return digestKey(e, e.Raw)
}

// Key implements [Event]. It consists of the name and a digest of Raw.
func (e *ActivityLogWebhookEvent) Key() string { return digestKey(e, e.Raw) }

// Key implements [Event]. It consists of the name and a digest of Raw, and is
// "" if there is no Raw.
func (e *UnknownEvent) Key() string {
	if e.Raw == "" {
		return ""
	}
	return digestKey(e, e.Raw)
}

// digestKey returns the name of e and 32 hexadecimal digits that stand for raw.
// An event that was built by hand has no raw: its JSON stands in.
func digestKey(e Event, raw string) string {
	text := []byte(raw)
	if raw == "" {
		var err error
		if text, err = json.Marshal(e); err != nil {
			return ""
		}
	}
	// 128 bits are enough: no two texts have the same digest by accident.
	sum := sha256.Sum256(text)
	return keyName(e.Name()) + "/" + hex.EncodeToString(sum[:16])
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
