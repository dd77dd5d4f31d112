package main

import (
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/gofrs/flock"
	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/mailtrapwebhook/mailtrapwebhook"
)

const (
	streamName    = "MAILTRAP"
	subjectPrefix = "mailtrap"

	// duplicateWindow is how long the stream knows an event by its id. Mailtrap repeats a delivery for 3 hours and 20
	// minutes, and one of inbound events for 24 hours; the half hour is for the last attempt, which comes when these are
	// over. JetStream's default is two minutes, less than the time to the first retry.
	duplicateWindow = 24*time.Hour + 30*time.Minute

	// maxAge is how long an event is kept, handled or not, and so how long the worker may be out of order before events
	// are lost. It cannot be below duplicateWindow.
	maxAge = 7 * 24 * time.Hour

	// openTimeout bounds each step of the start, and publishTimeout the time in which the stream stores an event. Where
	// that is over, the server that was to store it is gone: an election takes some seconds, and a write far less.
	openTimeout    = 30 * time.Second
	publishTimeout = 10 * time.Second

	// maxPayload is the most that a message may have with its headers, for which headerRoom is ample. Other servers take
	// 1 MiB by default, a thousand times what an event of Mailtrap's has, and refuse what has more.
	maxPayload = 8 << 20
	headerRoom = 1 << 10
)

// A queue is the stream of events.
type queue struct {
	lock   *flock.Flock   // of the directory
	server *server.Server // nil if it is elsewhere
	conn   *nats.Conn
	js     jetstream.JetStream
	stream jetstream.Stream
}

// openQueue connects to the servers, or starts the one inside the program, and makes the stream if there is none.
func openQueue(ctx context.Context, opts options, logger *slog.Logger) (_ *queue, err error) {
	q := new(queue)
	defer func() {
		if err != nil {
			q.close()
		}
	}()
	if opts.nats == "" {
		if q.lock, err = lockDir(opts.dir); err != nil {
			return nil, err
		}
		if q.server, err = startServer(opts.dir, logger); err != nil {
			return nil, err
		}
	}
	if q.conn, err = connect(opts.nats, q.server, logger); err != nil {
		return nil, err
	}
	// Without the timeout, an acknowledgement that got lost would be waited for, and take one of the places for those
	// that are, until the connection breaks.
	if q.js, err = jetstream.New(q.conn, jetstream.WithPublishAsyncTimeout(publishTimeout)); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, openTimeout)
	defer cancel()
	if q.stream, err = q.js.CreateOrUpdateStream(ctx, streamConfig(opts)); err != nil {
		return nil, fmt.Errorf("making the stream %s: %w (has the cluster -replicas servers, and room for -max-bytes?)",
			streamName, err)
	}
	return q, nil
}

func (q *queue) close() {
	if q.conn != nil {
		q.conn.Close()
	}
	if q.server != nil {
		q.server.Shutdown()
		q.server.WaitForShutdown()
	}
	if q.lock != nil {
		_ = q.lock.Unlock() // the end of the program does it too
	}
}

// lockDir sees to it that no other program uses the directory: two servers in one would overwrite what the other has
// acknowledged, and not notice.
func lockDir(dir string) (*flock.Flock, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("-dir is no directory and cannot be made one: %w", err)
	}
	lock := flock.New(filepath.Join(dir, "lock"))
	locked, err := lock.TryLock()
	switch {
	case err != nil:
		return nil, fmt.Errorf("locking %s: %w", dir, err)
	case !locked:
		return nil, fmt.Errorf("another process has %s: give each a directory of its own, or all of them -nats", dir)
	}
	return lock, nil
}

// startServer starts a NATS server inside the program that nobody else can connect to.
func startServer(dir string, logger *slog.Logger) (*server.Server, error) {
	s, err := server.NewServer(&server.Options{
		ServerName: "queue",
		DontListen: true,
		NoSigs:     true, // they are for the program
		MaxPayload: maxPayload,
		JetStream:  true,
		StoreDir:   dir,
		// The server would otherwise leave what it has acknowledged in the memory of the operating system for up to two
		// minutes. There it outlasts the program, but not a loss of power, and there is no other server that has it. The
		// price is a wait for the disk with each event. (With -nats this is the servers' setting sync_always. They need
		// it too where one loss of power may hit most of them.)
		SyncAlways: true,
		// The limit is the stream's own. The default, a part of what is free on the disk at the start, would be less at
		// each start the more the stream has.
		JetStreamMaxStore: math.MaxInt64,
	})
	if err != nil {
		return nil, fmt.Errorf("starting the server: %w", err)
	}
	s.SetLoggerV2(serverLog{logger}, false, false, false)
	s.Start() // takes as long as it takes to read the directory
	if !s.ReadyForConnections(time.Second) {
		s.Shutdown()
		return nil, fmt.Errorf("the server did not start in %s: see the log", dir)
	}
	return s, nil
}

// A serverLog takes what the server inside the program logs, which is nothing of its messages.
type serverLog struct{ *slog.Logger }

func (l serverLog) Noticef(format string, v ...any) { l.Debug("nats: " + fmt.Sprintf(format, v...)) }
func (l serverLog) Warnf(format string, v ...any)   { l.Warn("nats: " + fmt.Sprintf(format, v...)) }
func (l serverLog) Errorf(format string, v ...any)  { l.Error("nats: " + fmt.Sprintf(format, v...)) }
func (l serverLog) Fatalf(format string, v ...any)  { l.Error("nats: " + fmt.Sprintf(format, v...)) }
func (l serverLog) Debugf(string, ...any)           {}
func (l serverLog) Tracef(string, ...any)           {}

// connect connects to inside or, if that is nil, to the servers with the URLs.
func connect(urls string, inside *server.Server, logger *slog.Logger) (*nats.Conn, error) {
	options := []nats.Option{
		nats.Name("mailtrap queue"),
		nats.MaxReconnects(-1),
		// While there is no connection, fail at once and have Mailtrap send again. What is published then would otherwise
		// wait in memory for the next connection, when its acknowledgement has been given up already.
		nats.ReconnectBufSize(-1),
		nats.Timeout(publishTimeout), // for each server; by default 2 s, which a busy machine may need
		// Notice within half a minute, not six, that a server is gone without having closed the connection.
		nats.PingInterval(10 * time.Second),
		nats.FlusherTimeout(publishTimeout),
		nats.DisconnectErrHandler(func(_ *nats.Conn, err error) {
			if err != nil {
				logger.Warn("nats: disconnected", "error", err)
			}
		}),
		nats.ReconnectHandler(func(*nats.Conn) { logger.Info("nats: connected again") }),
		nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) { logger.Error("nats", "error", err) }),
	}
	if inside != nil {
		options = append(options, nats.InProcessServer(inside))
	}
	conn, err := nats.Connect(urls, options...)
	if malformed := (*url.Error)(nil); errors.As(err, &malformed) {
		return nil, errors.New("-nats is no list of URLs such as nats://host:4222") // err quotes it, with any password
	}
	if err != nil {
		return nil, fmt.Errorf("connecting to NATS: %w", err)
	}
	return conn, nil
}

func streamConfig(opts options) jetstream.StreamConfig {
	return jetstream.StreamConfig{
		Name:        streamName,
		Description: "events of Mailtrap's webhooks",
		Subjects:    []string{subjectPrefix + ".>"},
		Storage:     jetstream.FileStorage,
		Replicas:    opts.replicas,
		Duplicates:  duplicateWindow,
		// Events stay when they have been handled. A server that starts learns the ids from the events that are stored:
		// with WorkQueuePolicy, which removes an event when it is handled, it would take such a one again.
		Retention: jetstream.LimitsPolicy,
		MaxAge:    maxAge,
		MaxBytes:  opts.maxBytes,
		// A stream that is full refuses new events, so that Mailtrap sends them again. With DiscardOld, the default, it
		// would drop events that have been acknowledged, and perhaps not been handled.
		Discard: jetstream.DiscardNew,
	}
}

// publish puts the events of a delivery into the stream. Only if all of them are there it returns nil, which acknowledges
// the delivery. Otherwise Mailtrap sends it again, and the stream drops what it has.
func (q *queue) publish(ctx context.Context, d *mailtrapwebhook.Delivery) error {
	acks := make([]jetstream.PubAckFuture, len(d.Events))
	for i := range d.Events {
		// Where too many acknowledgements are due, publishing waits.
		deadline, _ := ctx.Deadline()
		wait := max(time.Until(deadline), time.Nanosecond)
		var err error
		if acks[i], err = q.js.PublishMsgAsync(message(d, i), jetstream.WithStallWait(wait)); err != nil {
			return fmt.Errorf("publishing event %d of %d: %w", i+1, len(acks), err)
		}
	}
	for i, ack := range acks {
		select {
		case <-ack.Ok(): // stored, now or before
		case err := <-ack.Err():
			return fmt.Errorf("event %d of %d was not stored: %w", i+1, len(acks), err)
		case <-ctx.Done():
			return fmt.Errorf("event %d of %d was not stored in time: %w", i+1, len(acks), ctx.Err())
		}
	}
	return nil
}

// message returns the message for an event of a delivery: its text as it was received, under its id.
func message(d *mailtrapwebhook.Delivery, i int) *nats.Msg {
	family, text := familyOf(d.Events[i])
	msg := nats.NewMsg(strings.Join([]string{subjectPrefix, family, token(d.Events[i].Name(), family)}, "."))
	msg.Header.Set(jetstream.MsgIDHeader, cmp.Or(d.Keys[i], placeID(d, i)))
	msg.Data = []byte(text)
	return msg
}

// placeID returns the id of an event that has no key, since it has no text. Its message is empty and says no more than
// that it came, but without an id each retry would add another. A retry repeats the whole body, so that its place there
// tells it again.
func placeID(d *mailtrapwebhook.Delivery, i int) string {
	return fmt.Sprintf("place-%x-%d", sha256.Sum256(d.Body), i)
}

// The families of events, by which the worker knows what to decode a message into.
const (
	familySending     = "sending"
	familyActivityLog = "activity_log"
	familyInbound     = "inbound"
	familyUnknown     = "unknown"
)

func familyOf(ev mailtrapwebhook.Event) (family, text string) {
	switch ev := ev.(type) {
	case *mailtrapwebhook.SendingWebhookEvent:
		return familySending, ev.Raw
	case *mailtrapwebhook.ActivityLogWebhookEvent:
		return familyActivityLog, ev.Raw
	case *mailtrapwebhook.InboundWebhookEvent:
		return familyInbound, ev.Raw
	case *mailtrapwebhook.UnknownEvent:
		return familyUnknown, ev.Raw
	}
	panic(fmt.Sprintf("no family for a %T", ev)) // there is no other type of event
}

// token makes of the name of a kind what may stand between the dots of a subject. The name of an unknown kind is whatever
// the body says: dots, spaces, wildcards, megabytes.
func token(name, family string) string {
	name = strings.Map(func(r rune) rune {
		switch {
		case 'a' <= r && r <= 'z', 'A' <= r && r <= 'Z', '0' <= r && r <= '9', r == '-':
			return r
		}
		return '_'
	}, strings.TrimPrefix(name, family+"."))
	return cmp.Or(name[:min(len(name), 64)], "_")
}
