package mailtrapwebhook

import (
	"crypto/sha256"
	"encoding/hex"
	"hash/maphash"
	"strconv"
	"strings"
	"sync"
)

// An item is an event of a delivery with what it is known by. That is kept
// apart from the event, because callbacks may do with the event as they like.
type item struct {
	event  Event
	key    string // with the scope; "" if nothing tells the event
	place  int    // in the delivery
	err    error  // of its callback
	result result
	told   result // the result that the store knows, 0 for none
	old    bool   // older than GiveUpAfter
	// overran means that its callback was abandoned, which counts as a failure.
	overran bool
	// running is how many abandoned callbacks still have the event. Its lease
	// must stay until they return.
	running int32
}

// A result is what has become of an event. Once a callback has had the event,
// batch.mu guards it.
type result uint8

const (
	unstarted result = iota + 1
	duplicate        // handled before
	held             // another delivery's
	handled
	failed
	dropping // to be dropped if OnDrop agrees
	dropped
)

// newItems returns the items of a delivery's events.
//
// Some keys do not tell an event from others: those of audit-log and unknown
// events, two of which may be equal, and equal keys in one body, as Mailtrap's
// samples have. Such an item's key also has the digest of the body and the
// event's place in it. A retry repeats the whole body. The same event in another
// body is another occurrence.
func newItems(events []Event, scope string, body []byte) []item {
	items := make([]item, len(events))
	setKeys(items, events, scope)
	repeated := repeatedKeys(items)
	digest := sync.OnceValue(func() string {
		sum := sha256.Sum256(body)
		return hex.EncodeToString(sum[:16]) // half is ample against accidental twins
	})
	for i := range items {
		it := &items[i]
		if it.key != "" && (repeated[it.key] || !hasIDs(it.event)) {
			it.key += "/" + digest() + "/" + strconv.Itoa(i)
		}
	}
	return items
}

// setKeys makes an item of each event, with its Key behind the scope. The keys
// are parts of one string, and who hands one on must clone it. With the hashes
// of repeatedKeys this saves a tenth of a delivery.
func setKeys(items []item, events []Event, scope string) {
	const size = len("unsubscribe/") + 36 + len("/") + 36 // of the longest usual key
	if scope != "" {
		scope += ":"
	}
	var all strings.Builder
	all.Grow((len(scope) + size) * len(events))
	var key []byte
	for i, ev := range events {
		from := all.Len()
		if key = ev.appendKey(key[:0]); len(key) > 0 {
			all.WriteString(scope)
			all.Write(key)
		}
		items[i] = item{event: ev, key: all.String()[from:], place: i, result: unstarted}
	}
}

var keySeed = maphash.MakeSeed()

// repeatedKeys returns the keys that several items have. It is most often nil:
// equal hashes alone are reason to compare the keys themselves.
func repeatedKeys(items []item) map[string]bool {
	hashes := make(map[uint64]struct{}, len(items))
	for i := range items {
		hashes[maphash.String(keySeed, items[i].key)] = struct{}{}
	}
	if len(hashes) == len(items) {
		return nil
	}
	repeated := make(map[string]bool)
	for i := range items {
		_, seen := repeated[items[i].key]
		repeated[items[i].key] = seen
	}
	return repeated
}

// hasIDs reports whether events of this kind have ids that tell them apart.
func hasIDs(ev Event) bool {
	switch ev.(type) {
	case *SendingWebhookEvent, *InboundWebhookEvent:
		return true
	}
	return false
}
