package webhooktest

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/mailtrapwebhook/mailtrapwebhook"
)

const (
	reserved = mailtrapwebhook.Reserved
	handled  = mailtrapwebhook.Handled
	held     = mailtrapwebhook.Held

	longLease = 10 * time.Minute // outlasts every subtest, and leaves no mark in the store for good
)

// Our own tests lower these numbers, so that they need not wait.
var (
	shortLease = 300 * time.Millisecond
	leaseLimit = 5 * time.Second  // for a short lease to end: some stores count seconds
	callLimit  = 30 * time.Second // no call helps after that: Mailtrap has hung up
)

// TestDeduplicator tests an implementation of [mailtrapwebhook.Deduplicator] for
// what its documentation asks. A failing subtest says what the implementation
// does wrong. If one about a basic rule fails, TestDeduplicator stops there,
// since the later ones build on it.
//
//	func TestStore(t *testing.T) {
//		webhooktest.TestDeduplicator(t, func(t *testing.T) mailtrapwebhook.Deduplicator {
//			return mystore.New(client)
//		})
//	}
//
// It calls open at least once in each subtest, with the subtest's t. open
// returns a Deduplicator that is ready to use. Several may share a store, which
// need not be empty: every key is new. If two of them share a store, the
// concurrent subtests use both, as two processes do.
//
// TestDeduplicator takes about two seconds for a store in memory. Run it with
// go test -race, too. It does not wait for long, and it cannot stop your store or
// look into it. Test yourself that a lease lasts 88 seconds, and a handled key
// for longer than 24 hours. Test that a handled key outlasts a restart, and that
// the store removes ended marks. Test too that a call returns when its context
// ends while the store does not answer.
func TestDeduplicator(t *testing.T, open func(t *testing.T) mailtrapwebhook.Deduplicator) {
	for _, tt := range dedupTests() {
		passed := t.Run(tt.name, func(t *testing.T) { tt.test(openSubject(t, open)) })
		if !passed && tt.basic {
			t.Fatalf("the subtests after %q were not run: mend this first, since they build on it", tt.name)
		}
	}
}

// A dedupTest is a subtest of TestDeduplicator.
type dedupTest struct {
	name  string
	test  func(*subject)
	basic bool // whether the later ones build on it
}

func dedupTests() []dedupTest {
	var tests []dedupTest
	for _, r := range dedupRules {
		tests = append(tests, dedupTest{r.name, func(s *subject) {
			for _, step := range r.steps {
				step(s, r.rule)
			}
		}, true})
	}
	return append(tests, []dedupTest{
		{"the keys of a call stay as they are", testKeysStay, false},
		{"keys of any bytes", testOddKeys, false},
		{"ten thousand keys in a call", testLargeBatch, false},
		{"a lease ends", testLeaseEnds, true},
		{"many leases end at once", testManyLeasesEnd, false},
		{"Commit counts after the lease", testCommitAfterLease, false},
		{"Commit outlasts the lease", testCommitOutlastsLease, false},
		{"another Reserve leaves a mark as it is", testMarkStays, false},
		{"one of many concurrent calls gets a key", testOneWins, false},
		{"a reserved key has one owner", testOneOwner, false},
		{"Commit wins over a concurrent Release", testCommitWins, false},
		{"concurrent calls do not deadlock", testChurn, false},
		{"an ended context", testEndedContext, false},
		{"a context that ends during a call", testContextEnds, false},
	}...)
}

// A subject is a Deduplicator under test, with keys that nobody else has.
type subject struct {
	*testing.T
	mailtrapwebhook.Deduplicator

	open   func(*testing.T) mailtrapwebhook.Deduplicator
	prefix string
}

func openSubject(t *testing.T, open func(*testing.T) mailtrapwebhook.Deduplicator) *subject {
	return &subject{t, timely{open(t)}, open, "webhooktest/" + rand.Text() + "/"}
}

// keys returns new keys that end with names.
func (s *subject) keys(names ...string) []string {
	keys := make([]string, len(names))
	for i, name := range names {
		keys[i] = s.prefix + name
	}
	return keys
}

// numbered returns n keys for a name.
func (s *subject) numbered(name string, n int) []string {
	names := make([]string, n)
	for i := range names {
		names[i] = fmt.Sprintf("%s/%05d", name, i)
	}
	return s.keys(names...)
}

// reserve reserves keys and fails the test unless the answers are want. rule
// says what the implementation must do for that.
func (s *subject) reserve(rule string, lease time.Duration, keys []string, want ...mailtrapwebhook.Reservation) {
	s.Helper()
	got, err := s.Reserve(s.Context(), keys, lease)
	if err != nil {
		if slices.Contains(want, held) {
			rule += ". That a key is Held is an answer and no error: give it at once, and do not wait until the key is free"
		}
		s.Fatalf("Reserve of %d keys fails: %v: %s", len(keys), err, rule)
	}
	s.compare(rule, keys, got, want)
}

func (s *subject) compare(rule string, keys []string, got, want []mailtrapwebhook.Reservation) {
	s.Helper()
	for i := range want {
		if got[i] != want[i] {
			s.Fatalf("Reserve answers %v for %.100q, key %d of %d, and not %v: %s",
				got[i], strings.TrimPrefix(keys[i], s.prefix), i+1, len(keys), want[i], rule)
		}
	}
}

func (s *subject) commit(keys []string) {
	s.Helper()
	if err := s.Commit(s.Context(), keys); err != nil {
		s.Fatalf("Commit of %d keys fails: %v", len(keys), err)
	}
}

func (s *subject) release(keys []string) {
	s.Helper()
	if err := s.Release(s.Context(), keys); err != nil {
		s.Fatalf("Release of %d keys fails: %v", len(keys), err)
	}
}

// repeat returns answer n times.
func repeat(answer mailtrapwebhook.Reservation, n int) []mailtrapwebhook.Reservation {
	return slices.Repeat([]mailtrapwebhook.Reservation{answer}, n)
}

// timely is a Deduplicator whose calls return, in time and with an answer for
// each key or an error. It makes no call without keys, as a Handler does not.
type timely struct{ d mailtrapwebhook.Deduplicator }

func (d timely) Reserve(
	ctx context.Context, keys []string, lease time.Duration,
) (answers []mailtrapwebhook.Reservation, err error) {
	answers, err = inTime(ctx, func(ctx context.Context) ([]mailtrapwebhook.Reservation, error) {
		return d.d.Reserve(ctx, keys, lease)
	})
	if err == nil && len(answers) != len(keys) {
		return nil, fmt.Errorf("it returns %d answers for %d keys, and must return one for each", len(answers), len(keys))
	}
	return answers, err
}

func (d timely) Commit(ctx context.Context, keys []string) error {
	if len(keys) == 0 {
		return nil
	}
	_, err := inTime(ctx, func(ctx context.Context) (any, error) { return nil, d.d.Commit(ctx, keys) })
	return err
}

func (d timely) Release(ctx context.Context, keys []string) error {
	if len(keys) == 0 {
		return nil
	}
	_, err := inTime(ctx, func(ctx context.Context) (any, error) { return nil, d.d.Release(ctx, keys) })
	return err
}

var errHangs = errors.New("it has not returned long after its context ended: it waits for another call, or ignores ctx")

func inTime[T any](ctx context.Context, f func(context.Context) (T, error)) (T, error) {
	ctx, cancel := context.WithTimeout(ctx, callLimit)
	defer cancel()
	type result struct {
		value T
		err   error
	}
	returned := make(chan result, 1) // buffered, so that a late return leaves no goroutine
	go func() {
		value, err := f(ctx)
		returned <- result{value, err}
	}()
	select {
	case r := <-returned:
		return r.value, r.err
	case <-ctx.Done():
	}
	select {
	case r := <-returned:
		return r.value, r.err
	case <-time.After(callLimit):
		var none T
		return none, errHangs
	}
}

// A dedupStep calls a method. Its keys are the words of a string.
type dedupStep func(s *subject, rule string)

func reserve(words string, want ...mailtrapwebhook.Reservation) dedupStep {
	return func(s *subject, rule string) {
		s.Helper()
		s.reserve(rule, longLease, s.keys(strings.Fields(words)...), want...)
	}
}

func commit(words string) dedupStep {
	return func(s *subject, _ string) { s.Helper(); s.commit(s.keys(strings.Fields(words)...)) }
}

func release(words string) dedupStep {
	return func(s *subject, _ string) { s.Helper(); s.release(s.keys(strings.Fields(words)...)) }
}

var dedupRules = []struct {
	name, rule string
	steps      []dedupStep
}{ // each needs nothing but those before it, or it would fail for their faults
	{"a free key is Reserved, then Held", "Reserve takes a free key for its caller, and for nobody else", []dedupStep{
		reserve("a", reserved), reserve("a", held), reserve("a b", held, reserved),
	}},
	{"a committed key is Handled", "Commit makes its keys Handled", []dedupStep{
		reserve("a", reserved), commit("a"), reserve("a", handled),
	}},
	{"answers are in the order of the keys", "the answers must be in the order of the keys", []dedupStep{
		reserve("b a", reserved, reserved), commit("a"), reserve("c b a d", reserved, held, handled, reserved),
	}},
	{"an equal key later in a call is Held", "of equal free keys in one call, only the first is Reserved", []dedupStep{
		reserve("b a b b", reserved, reserved, held, held), reserve("a b a", held, held, held),
	}},
	{"Commit can be repeated", "Commit leaves a Handled key Handled", []dedupStep{
		reserve("a b", reserved, reserved), commit("a b a"), commit("a"), commit("b"), reserve("a b", handled, handled),
	}},
	{"Commit needs no reservation", "Commit must make any key Handled, also one that is free", []dedupStep{
		commit("a"), reserve("a b", handled, reserved), release("b"), commit("b"), reserve("b", handled),
	}},
	{"a released key is free", "Release must free a reserved key, and no other", []dedupStep{
		reserve("a b c", reserved, reserved, reserved), release("a c"), reserve("a b c", reserved, held, reserved),
	}},
	{"Release accepts any key", "Release must accept a key that it does not know, and leave it free", []dedupStep{
		release("a"), reserve("a b", reserved, reserved), release("b c b"), release("b"), reserve("b c", reserved, reserved),
	}},
	{"Release keeps a Handled mark", "Release must not remove a Handled mark", []dedupStep{
		reserve("a b c", reserved, reserved, reserved), commit("a b"), release("c b a"),
		reserve("a b c", handled, handled, reserved),
	}},
}

func testKeysStay(s *subject) {
	keys := s.keys("c", "a", "b", "a")
	given := slices.Clone(keys)
	calls := []struct {
		method string
		call   func()
	}{
		{"Reserve", func() { s.reserve("", longLease, given) }},
		{"Commit", func() { s.commit(given) }},
		{"Release", func() { s.release(given) }},
	}
	for _, c := range calls {
		if c.call(); !slices.Equal(given, keys) {
			s.Fatalf("%s changes the slice of keys, which the caller still uses: sort or edit a copy", c.method)
		}
	}
}

func testOddKeys(s *subject) {
	const rule = "keys are opaque: the store must tell any two strings apart, of any bytes and of 300 bytes and more"
	keys := s.keys(
		"a", "A", "a ", "a\n", "a\x00", "a\x00b", "\x00", "\x00a", "\xff", "\xff\xfe", "\xc3", "\xc3\xa9", "e\xcc\x81",
		`\x61`, "61", "'", `"`, `\`, "{a}:b", "{b}:b", "}{", "*", "%", "_", "?", "$1", "NULL", "{}", "[]", ",", "a,b", "a:",
		"", "\U0001f600", strings.Repeat("k", 300), strings.Repeat("k", 301),
	)
	s.reserve(rule, longLease, keys, repeat(reserved, len(keys))...)
	s.release(keys[:10])
	s.commit(keys[20:])
	want := slices.Concat(repeat(reserved, 10), repeat(held, 10), repeat(handled, len(keys)-20))
	s.reserve(rule, longLease, keys, want...)
}

// testLargeBatch uses as many keys as a Handler's MaxEvents allows.
func testLargeBatch(s *subject) {
	const rule = "every key of a large call must be answered"
	keys := s.numbered("large", 10_000)
	s.reserve(rule, longLease, keys, repeat(reserved, len(keys))...)
	s.commit(keys[:5000])
	s.release(keys)
	s.reserve(rule, longLease, keys, slices.Concat(repeat(handled, 5000), repeat(reserved, 5000))...)
	s.commit(keys)
	s.reserve("a key must stay Handled, however many are committed with it or after it", longLease, keys,
		repeat(handled, len(keys))...)
}

const ruleLease = "a lease must end when its time is over, neither sooner nor later, and free no other key"

// awaitFree reserves a key as soon as it is free.
func (s *subject) awaitFree(key string) {
	s.Helper()
	for deadline := time.Now().Add(leaseLimit); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		got, err := s.Reserve(s.Context(), []string{key}, longLease)
		switch {
		case err != nil:
			s.Fatalf("Reserve of a key whose lease is ending fails: %v", err)
		case got[0] == reserved:
			return
		}
		s.compare(ruleLease, []string{key}, got, repeat(held, 1))
	}
	s.Fatalf("a key with a lease of %v is not free %v later: %s", shortLease, leaseLimit, ruleLease)
}

func testLeaseEnds(s *subject) {
	keys := s.keys("short", "long")
	began := time.Now()
	s.reserve(ruleLease, shortLease, keys[:1], reserved)
	s.reserve(ruleLease, longLease, keys[1:], reserved)
	s.awaitFree(keys[0])
	if took := time.Since(began); took < shortLease {
		s.Fatalf("a lease of %v ended after %v: %s", shortLease, took, ruleLease)
	}
	s.reserve(ruleLease, longLease, keys, held, held)
}

// testManyLeasesEnd reserves keys among many whose leases have ended.
func testManyLeasesEnd(s *subject) {
	const rule = "a key whose lease has ended must be free, whichever other keys are asked for"
	keys := s.numbered("many", 100)
	s.reserve(rule, shortLease, keys, repeat(reserved, 100)...)
	s.awaitFree(keys[50])
	time.Sleep(2 * time.Millisecond) // a store with a clock of milliseconds ends equal leases in one
	want := repeat(reserved, 100)
	want[50] = held
	s.reserve(rule, longLease, keys, want...)
}

func testCommitAfterLease(s *subject) {
	const rule = "Commit must count after the lease, also when another delivery has reserved the key"
	keys := s.keys("taken", "free")
	other := s.sharer()
	s.reserve(rule, shortLease, keys, reserved, reserved)
	other.awaitFree(keys[0])
	s.commit(keys)
	other.release(keys[:1]) // by the delivery that took the key
	s.reserve(rule, longLease, keys, handled, handled)
}

func testCommitOutlastsLease(s *subject) {
	const rule = "Commit must replace the end of the lease by the store's own, later time"
	keys := s.keys("committed", "reserved")
	s.reserve(rule, shortLease, keys, reserved, reserved)
	s.commit(keys[:1])
	s.awaitFree(keys[1])
	s.reserve(rule, longLease, keys, handled, held)
}

func testMarkStays(s *subject) {
	const rule = "Reserve must not change how long the key of another is reserved or Handled"
	keys := s.keys("reserved", "handled")
	s.reserve(rule, longLease, keys[:1], reserved)
	s.commit(keys[1:])
	s.reserve(rule, shortLease, keys, held, handled)
	time.Sleep(shortLease + 10*time.Millisecond)
	s.reserve(rule, longLease, keys, held, handled)
}
