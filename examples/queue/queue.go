package main

import (
	"cmp"
	"context"
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

	// duplicateWindow is how long the stream knows an event by its id. Mailtrap
	// repeats a delivery for 3 hours and 20 minutes, and inbound events for 24
	// hours. The half hour covers the last attempt. JetStream's default is two
	// minutes, which is over before the first retry.
	duplicateWindow = 24*time.Hour + 30*time.Minute

	// maxAge is how long the stream keeps an event, handled or not. A worker
	// that is down for longer loses events. NATS wants it at least as long as
	// duplicateWindow.
	maxAge = 7 * 24 * time.Hour

	// openTimeout bounds each step of the start. publishTimeout bounds the
	// storing of an event: an election takes some seconds, and a write far
	// less.
	openTimeout    = 30 * time.Second
	publishTimeout = 10 * time.Second

	// maxPayload is the most that a message may have, headers included;
	// headerRoom is ample for those. Other servers take 1 MiB by default, a
	// thousand times what an event has, and refuse larger messages.
	maxPayload = 8 << 20
	headerRoom = 1 << 10
)

// A queue is the stream of events.
type queue struct {
	lock   *flock.Flock   // on the directory
	server *server.Server // inside the program; nil with -nats
	conn   *nats.Conn
	js     jetstream.JetStream
	stream jetstream.Stream
}

// openQueue connects to the servers, or starts the server inside the program.
// It makes the stream if there is none.
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
	// Without the timeout, a lost acknowledgement keeps its place among the
	// pending ones until the connection breaks.
	if q.js, err = jetstream.New(q.conn, jetstream.WithPublishAsyncTimeout(publishTimeout)); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, openTimeout)
	defer cancel()
	if q.stream, err = q.js.CreateOrUpdateStream(ctx, streamConfig(opts)); err != nil {
		return nil, fmt.Errorf("cannot make the stream %s: %w (does the cluster have -replicas servers"+
			" and room for -max-bytes?)", streamName, err)
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
		_ = q.lock.Unlock() // the end of the program unlocks it too
	}
}

// lockDir locks the directory against other programs. Two servers in one
// directory would overwrite each other's events and not notice.
func lockDir(dir string) (*flock.Flock, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("-dir is no directory and cannot be made: %w", err)
	}
	lock := flock.New(filepath.Join(dir, "lock"))
	locked, err := lock.TryLock()
	switch {
	case err != nil:
		return nil, fmt.Errorf("cannot lock %s: %w", dir, err)
	case !locked:
		return nil, fmt.Errorf("another process uses %s: give each process its own -dir, or all of them the same -nats", dir)
	}
	return lock, nil
}

// startServer starts a NATS server inside the program. Nobody else can connect
// to it.
func startServer(dir string, logger *slog.Logger) (*server.Server, error) {
	s, err := server.NewServer(&server.Options{
		ServerName: "queue",
		DontListen: true,
		NoSigs:     true, // main handles signals
		MaxPayload: maxPayload,
		JetStream:  true,
		StoreDir:   dir,
		// Write each event to the disk before acknowledging it. By default the
		// server waits up to two minutes, and a loss of power loses events that
		// no other server has. With -nats, the servers have the same setting,
		// sync_always. They need it if one loss of power can hit most of them.
		SyncAlways: true,
		// The stream has its own limit. The default here is a share of the free
		// disk, which shrinks at each start as the stream grows.
		JetStreamMaxStore: math.MaxInt64,
	})
	if err != nil {
		return nil, fmt.Errorf("cannot start the server: %w", err)
	}
	s.SetLoggerV2(serverLog{logger}, false, false, false)
	s.Start() // returns after reading the directory
	if !s.ReadyForConnections(time.Second) {
		s.Shutdown()
		return nil, fmt.Errorf("the server did not start in %s: see the log for the reason", dir)
	}
	return s, nil
}

// A serverLog logs for the server inside the program. The server logs nothing
// of its messages.
type serverLog struct{ *slog.Logger }

func (l serverLog) Noticef(format string, v ...any) { l.Debug("nats: " + fmt.Sprintf(format, v...)) }
func (l serverLog) Warnf(format string, v ...any)   { l.Warn("nats: " + fmt.Sprintf(format, v...)) }
func (l serverLog) Errorf(format string, v ...any)  { l.Error("nats: " + fmt.Sprintf(format, v...)) }
func (l serverLog) Fatalf(format string, v ...any)  { l.Error("nats: " + fmt.Sprintf(format, v...)) }
func (l serverLog) Debugf(string, ...any)           {}
func (l serverLog) Tracef(string, ...any)           {}

// connect connects to the server inside the program. If inside is nil, connect
// connects to the servers with the URLs.
func connect(urls string, inside *server.Server, logger *slog.Logger) (*nats.Conn, error) {
	options := []nats.Option{
		nats.Name("mailtrap queue"),
		nats.MaxReconnects(-1),
		// Without a connection, fail at once: Mailtrap sends the delivery
		// again. Otherwise messages wait in memory for the next connection, and
		// by then nobody waits for their acknowledgements.
		nats.ReconnectBufSize(-1),
		nats.Timeout(publishTimeout), // for each server; a busy machine may need the default of 2 s
		// Notice within half a minute, not six, that a server has gone
		// silently.
		nats.PingInterval(10 * time.Second),
		nats.FlusherTimeout(publishTimeout),
		nats.DisconnectErrHandler(func(_ *nats.Conn, err error) {
			if err != nil {
				logger.Warn("nats: disconnected", "error", err)
			}
		}),
		nats.ReconnectHandler(func(*nats.Conn) { logger.Info("nats: reconnected") }),
		nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) { logger.Error("nats: error", "error", err) }),
	}
	if inside != nil {
		options = append(options, nats.InProcessServer(inside))
	}
	conn, err := nats.Connect(urls, options...)
	if malformed := (*url.Error)(nil); errors.As(err, &malformed) {
		return nil, errors.New("-nats is no list of URLs: write it as nats://host:4222") // err quotes the URL with its password
	}
	if err != nil {
		return nil, fmt.Errorf("cannot connect to NATS: %w", err)
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
		// Keep events that were handled. A starting server learns the ids from
		// the stored events. With WorkQueuePolicy, which removes handled
		// events, it would store them again.
		Retention: jetstream.LimitsPolicy,
		MaxAge:    maxAge,
		MaxBytes:  opts.maxBytes,
		// A full stream refuses new events, and Mailtrap sends them again. The
		// default, DiscardOld, drops acknowledged events that may be unhandled.
		Discard: jetstream.DiscardNew,
	}
}

// publish stores the events of a delivery in the stream. It returns nil, which
// acknowledges the delivery, if all of them are stored. After an error Mailtrap
// sends the delivery again, and the stream drops the events that it has.
func (q *queue) publish(ctx context.Context, d *mailtrapwebhook.Delivery) error {
	acks := make([]jetstream.PubAckFuture, len(d.Events))
	for i, ev := range d.Events {
		// Publishing waits while too many acknowledgements are pending.
		deadline, _ := ctx.Deadline()
		wait := max(time.Until(deadline), time.Nanosecond)
		var err error
		if acks[i], err = q.js.PublishMsgAsync(message(ev, d.Keys[i]), jetstream.WithStallWait(wait)); err != nil {
			return fmt.Errorf("cannot publish event %d of %d: %w", i+1, len(acks), err)
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

// message returns the message for an event: its text as received, under its
// key. The stream drops a message whose id it knows.
func message(ev mailtrapwebhook.Event, key string) *nats.Msg {
	family := familyOf(ev)
	msg := nats.NewMsg(strings.Join([]string{subjectPrefix, family, token(ev.Name(), family)}, "."))
	msg.Header.Set(jetstream.MsgIDHeader, key)
	msg.Data = []byte(ev.RawJSON())
	return msg
}

// The families of events. A subject names one, and the worker decodes the
// message as an event of that family.
const (
	familySending     = "sending"
	familyActivityLog = "activity_log"
	familyInbound     = "inbound"
	familyUnknown     = "unknown"
)

func familyOf(ev mailtrapwebhook.Event) string {
	switch ev.(type) {
	case *mailtrapwebhook.SendingWebhookEvent:
		return familySending
	case *mailtrapwebhook.ActivityLogWebhookEvent:
		return familyActivityLog
	case *mailtrapwebhook.InboundWebhookEvent:
		return familyInbound
	}
	return familyUnknown
}

// token returns the name of a kind as a token of a subject. The name of an
// unknown kind can be anything: dots, spaces, wildcards, megabytes.
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
