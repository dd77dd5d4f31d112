package main

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// add adds a delivery with a body, answered with a status.
func addTo(s *store, body []byte, secret string, status int) *delivery {
	c := newCapture(signedRequest(body), body, time.Now())
	c.id = s.nextID()
	c.answer.status = status
	d := inspect(c, []string{secret})
	s.add(d)
	return d
}

func idsOf(deliveries []*delivery) (ids []int) {
	for _, d := range deliveries {
		ids = append(ids, d.id)
	}
	return ids
}

func TestListFilters(t *testing.T) {
	s := newStore()
	addTo(s, []byte(`{"event":"bounce","email":"Jane@Example.com","message_id":"m-1","event_id":"e-1"}`), testSecret, 200)
	addTo(s, []byte(`{"event":"open","email":"joe@example.com","message_id":"an id with blanks"}`), testSecret, 500)
	addTo(s, []byte(`{"events":[{"event":"click"},{"event":"bounce"}]}`), "another", 400)
	addTo(s, []byte(`{"event":"inbound.message_received","from":"Sender <s@example.org>","message_id":"m-9"}`), testSecret, 200)
	last := addTo(s, []byte(`{"event":"brand new"}`), testSecret, 200)
	for _, test := range []struct {
		filter filter
		want   []int
	}{
		{filter{}, []int{5, 4, 3, 2, 1}},
		{filter{kinds: []string{"bounce"}}, []int{3, 1}},
		{filter{kinds: []string{"open", "click"}}, []int{3, 2}},
		{filter{kinds: []string{"unknown"}}, []int{5}},
		{filter{q: "jane@"}, []int{1}},
		{filter{q: "example.org"}, []int{4}},
		{filter{q: "m-1"}, []int{1}},
		{filter{q: "e-1"}, []int{1}},
		{filter{q: "with blanks"}, []int{2}},
		{filter{q: "bounce/m-1/e-1"}, []int{1}},
		{filter{q: "nobody"}, nil},
		{filter{verified: "no"}, []int{3}},
		{filter{verified: "yes"}, []int{5, 4, 2, 1}},
		{filter{verified: "unknown"}, nil},
		{filter{status: 500}, []int{2}},
		{filter{not200: true}, []int{3, 2}},
		{filter{before: 3}, []int{2, 1}},
		{filter{since: last.receivedAt.Add(time.Second)}, nil},
		{filter{since: last.receivedAt.Add(-time.Minute)}, []int{5, 4, 3, 2, 1}},
		{filter{until: last.receivedAt.Add(-time.Minute)}, nil},
		{filter{until: last.receivedAt.Add(time.Second)}, []int{5, 4, 3, 2, 1}},
		{filter{kinds: []string{"bounce"}, verified: "yes"}, []int{1}},
	} {
		test.filter.limit = 100
		page, total, more := s.list(test.filter)
		require.Equal(t, test.want, idsOf(page), "%+v", test.filter)
		require.False(t, more)
		if test.filter.before == 0 {
			require.Equal(t, len(test.want), total)
		}
	}
	page, total, more := s.list(filter{limit: 2})
	require.Equal(t, []int{5, 4}, idsOf(page))
	require.Equal(t, 5, total)
	require.True(t, more)
	page, total, more = s.list(filter{limit: 2, before: 2})
	require.Equal(t, []int{1}, idsOf(page))
	require.Equal(t, 5, total)
	require.False(t, more)
}

func TestNot200LeavesOutWhatIsNotAnsweredYet(t *testing.T) {
	s := newStore()
	addTo(s, []byte(`{"event":"open"}`), testSecret, 0)
	hungUp := addTo(s, []byte(`{"event":"open"}`), testSecret, 0)
	s.add(hungUp.answered(answer{err: "the sender hung up"}))
	page, _, _ := s.list(filter{not200: true, limit: 10})
	require.Equal(t, []int{hungUp.id}, idsOf(page))
}

func TestTheOldestGoWhereMemoryIsShort(t *testing.T) {
	s := newStore()
	s.max = 100_000
	body := fill([]byte(`{"event":"open"}`), 10_000)
	for range 30 {
		addTo(s, body, testSecret, 200)
	}
	page, total, _ := s.list(filter{limit: 100})
	require.LessOrEqual(t, s.bytes, s.max)
	require.Equal(t, 8, total)
	require.Equal(t, 30, page[0].id)
	require.Nil(t, s.get(22))
	require.NotNil(t, s.get(23))
	// One that is larger than all memory is shown all the same.
	addTo(s, fill(body, 200_000), testSecret, 200)
	require.NotNil(t, s.get(31))
}

func TestStrangersCannotPushOutWhatVerifies(t *testing.T) {
	s := newStore()
	s.max = 100_000
	body := fill([]byte(`{"event":"open"}`), 10_000)
	for range 4 {
		addTo(s, body, testSecret, 200)
	}
	for range 100 {
		addTo(s, body, "another", 400)
	}
	_, verified, _ := s.list(filter{limit: 100, verified: verifiedYes})
	require.Equal(t, 4, verified)
	_, strangers, _ := s.list(filter{limit: 100, verified: verifiedNo})
	require.Equal(t, 4, strangers)
	require.NotNil(t, s.get(104))
}

func TestAnAnswerTakesThePlaceOfTheDelivery(t *testing.T) {
	s := newStore()
	d := addTo(s, []byte(`{"event":"open"}`), testSecret, 0)
	other := addTo(s, []byte(`{"event":"click"}`), testSecret, 200)
	s.add(d.answered(answer{status: 500}))
	page, total, _ := s.list(filter{limit: 10})
	require.Equal(t, 2, total)
	require.Equal(t, 500, page[1].answer.status)
	require.Zero(t, d.answer.status, "a delivery that others read must not change")
	missed, sub := s.subscribe(other.change)
	sub.cancel()
	require.Equal(t, []int{d.id}, idsOf(missed))
}

func TestTheStoreIsSafeForConcurrentUse(t *testing.T) {
	s := newStore()
	s.max = 50_000
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			for i := range 50 {
				_, sub := s.subscribe(0)
				secret := []string{testSecret, "another"}[i%2]
				d := addTo(s, []byte(`{"event":"open"}`), secret, 0)
				s.add(d.answered(answer{status: 200}))
				s.list(filter{limit: 10, q: "open"})
				s.get(d.id)
				sub.cancel()
			}
		})
	}
	all.Wait()
	page, _, _ := s.list(filter{limit: 1000})
	var bytes, strangers int
	for _, d := range page {
		bytes += d.size()
		if d.verdict.verified == verifiedNo {
			strangers += d.size()
		}
	}
	require.Equal(t, []int{bytes, strangers}, []int{s.bytes, s.strangers})
	require.True(t, slices.IsSortedFunc(page, func(a, b *delivery) int { return b.id - a.id }))
	require.Equal(t, 400, s.lastID)
}

func BenchmarkListOf10000(b *testing.B) {
	s := newStore()
	for i := range 10_000 {
		addTo(s, fmt.Appendf(nil, `{"event":"open","email":"user%d@example.com","message_id":"m-%d"}`, i, i), testSecret, 200)
	}
	for b.Loop() {
		_, total, _ := s.list(filter{limit: 100, q: "user9999@"})
		if total != 1 {
			b.Fatal(total)
		}
	}
}

func TestWhatIsKeptOfAHostileBodyIsBounded(t *testing.T) {
	var kinds, large bytes.Buffer
	for i := range 5000 {
		fmt.Fprintf(&kinds, `{"event":"activity_log.%d"}`+"\n", i)
		fmt.Fprintf(&large, `{"event":"open","email":"%0200d"}`+"\n", i)
	}
	c := contentOf(kinds.Bytes())
	require.Equal(t, maxKinds+1, len(c.kinds))
	require.Equal(t, 5000-maxKinds, c.kinds[kindOther])
	c = contentOf(large.Bytes())
	require.LessOrEqual(t, len(c.search), maxSearch)
	require.Equal(t, 5000, c.events)
	c = contentOf(fmt.Appendf(nil, `{"event":"activity_log.%0200d"}`, 1))
	require.Equal(t, map[string]int{kindUnknown: 1}, c.kinds)
}

func TestTheSizeOfACaptureCountsWhatASenderCanMakeLarge(t *testing.T) {
	r := signedRequest([]byte("{}"))
	r.URL.RawQuery = strings.Repeat("a&", 1000)
	r.Host = strings.Repeat("h", 1000)
	r.Header["A"] = make([]string, 1000)
	c := newCapture(r, []byte("{}"), time.Now())
	require.Greater(t, c.size(), len(c.target)+len(c.host)+1000*16) // a string's header has 16 bytes
}
