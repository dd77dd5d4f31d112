// Package servers starts the servers of the tests from the machine's packages.
// It touches no running server: each server has a directory of its own and
// listens only on a socket in it.
package servers

import (
	"bufio"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// A Server can be killed and started again on the same data.
type Server struct {
	Network, Address string // to connect to

	bus string // the port for other nodes of a Redis Cluster

	// Start starts the server again.
	Start func() error

	// Kill ends the server as a crash does: it writes nothing more to the disk.
	Kill func() error
}

// Restart kills the server and starts it again.
func (s *Server) Restart() error { return errors.Join(s.Kill(), s.Start()) }

// A Use names a server that the tests of a package need.
type Use struct {
	In    **Server // Main stores the server here
	Start func(dir string) (*Server, error)
}

// Main runs the tests of a package with servers and returns the exit status.
func Main(m *testing.M, uses ...Use) int {
	for _, use := range uses {
		dir, err := os.MkdirTemp("", "dedup") // a short name: the path of a socket has at most 107 bytes
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer os.RemoveAll(dir)
		server, err := use.Start(dir)
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer server.Kill()
		*use.In = server
	}
	return m.Run()
}

// Redis starts a redis-server that writes to the disk before it acknowledges.
func Redis(dir string) (*Server, error) { return startRedis(dir) }

// RedisCluster starts a redis-server as a cluster of one node. It is as strict
// about slots as a larger cluster.
func RedisCluster(dir string) (*Server, error) {
	busPort, err := FreePort() // no other node will connect
	if err != nil {
		return nil, err
	}
	s, err := startRedis(dir, "--cluster-enabled", "yes", "--cluster-port", busPort, "--bind", "127.0.0.1")
	if err != nil {
		return nil, err
	}
	return s, errors.Join(
		s.ask("CLUSTER ADDSLOTSRANGE 0 16383", "+OK"),
		await(filepath.Join(dir, "log"), func() error { return s.ask("GET x", "$-1") }),
	)
}

// RedisNodes starts a cluster of two nodes on loopback. All keys are on the first.
func RedisNodes(t *testing.T) (has, lacks *Server) {
	t.Helper()
	has, lacks = redisOnLoopback(t, "--cluster-enabled", "yes"), redisOnLoopback(t, "--cluster-enabled", "yes")
	host, port, err := net.SplitHostPort(lacks.Address)
	if err == nil {
		err = errors.Join(
			has.ask("CLUSTER ADDSLOTSRANGE 0 16383", "+OK"),
			has.ask("CLUSTER MEET "+host+" "+port+" "+lacks.bus, "+OK"),
		)
	}
	if err == nil {
		err = await("", func() error { return lacks.ask("GET x", "-MOVED 16287 "+has.Address) })
	}
	if err != nil {
		t.Fatal(err)
	}
	return has, lacks
}

// RedisSentinel starts a redis-server, and a sentinel that calls it "main".
func RedisSentinel(t *testing.T) (sentinel *Server) {
	t.Helper()
	server := redisOnLoopback(t)
	host, port, err := net.SplitHostPort(server.Address)
	if err != nil {
		t.Fatal(err)
	}
	settings := filepath.Join(t.TempDir(), "sentinel.conf") // the sentinel writes to it
	err = os.WriteFile(settings, fmt.Appendf(nil, "sentinel monitor main %s %s 1\n", host, port), 0o600)
	if err != nil {
		t.Fatal(err)
	}
	return redisOnLoopback(t, settings, "--sentinel")
}

// redisOnLoopback starts a redis-server with a port, which the nodes of a cluster
// and clients of sentinels must be told. It ends with the test.
func redisOnLoopback(t *testing.T, args ...string) *Server {
	t.Helper()
	port, portErr := FreePort()
	bus, busErr := FreePort()
	if err := errors.Join(portErr, busErr); err != nil {
		t.Fatal(err)
	}
	args = append(args, "--bind", "127.0.0.1", "--port", port, "--cluster-port", bus, "--dir", t.TempDir(), "--save", "")
	running, err := Guard(exec.Command("redis-server", args...))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		running.Signal("KILL")
		_ = running.Wait() // returns that the server was killed
	})
	s := &Server{Network: "tcp", Address: net.JoinHostPort("127.0.0.1", port), bus: bus}
	if err := await("", func() error { return s.ask("PING", "+PONG") }); err != nil {
		t.Fatal(err)
	}
	return s
}

func startRedis(dir string, args ...string) (*Server, error) {
	program, err := exec.LookPath("redis-server")
	if err != nil {
		return nil, errors.New("redis-server is missing: apt-get install redis-server")
	}
	s := &Server{Network: "unix", Address: filepath.Join(dir, "redis.sock")}
	args = append([]string{
		"--port", "0", "--unixsocket", s.Address, "--dir", dir, "--save", "", "--logfile", filepath.Join(dir, "log"),
		"--appendonly", "yes", "--appendfsync", "always",
	}, args...)
	var running *Guarded
	s.Start = func() (err error) {
		if running, err = Guard(exec.Command(program, args...)); err != nil {
			return err
		}
		return await(filepath.Join(dir, "log"), func() error { return s.ask("PING", "+PONG") })
	}
	s.Kill = func() error {
		running.Signal("KILL")
		_ = running.Wait() // returns that the server was killed
		return nil
	}
	return s, s.Start()
}

// ask sends a command to a redis-server and returns an error unless the answer
// is want.
func (s *Server) ask(command, want string) error {
	conn, err := net.Dial(s.Network, s.Address)
	if err != nil {
		return err
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(time.Second))
	if _, err := fmt.Fprintf(conn, "%s\r\n", command); err != nil {
		return err
	}
	line, err := bufio.NewReader(conn).ReadString('\n')
	if got := strings.TrimSpace(line); got != want {
		return fmt.Errorf("the answer to %s is %q: %w", command, got, err)
	}
	return nil
}

// await waits until a server answers.
func await(log string, ping func() error) error {
	deadline := time.Now().Add(30 * time.Second)
	for {
		err := ping()
		if err == nil {
			return nil
		}
		if time.Now().After(deadline) {
			said, _ := os.ReadFile(log)
			return fmt.Errorf("the server does not start: %w\n%s", err, said)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// Postgres starts a PostgreSQL server. It has an empty database postgres and a
// superuser postgres without a password.
func Postgres(dir string) (*Server, error) {
	found, err := filepath.Glob("/usr/lib/postgresql/*/bin/pg_ctl")
	if err != nil || len(found) == 0 {
		return nil, errors.New("/usr/lib/postgresql/*/bin/pg_ctl is missing: apt-get install postgresql")
	}
	bin := filepath.Dir(found[len(found)-1])
	as, err := notRoot(dir)
	if err != nil {
		return nil, err
	}
	command := func(program string, args ...string) *exec.Cmd {
		cmd := exec.Command(filepath.Join(bin, program), args...)
		cmd.Dir, cmd.SysProcAttr = dir, as
		return cmd
	}
	data := filepath.Join(dir, "data")
	initdb := command("initdb", "-D", data, "-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C", "-N")
	if said, err := initdb.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("initdb: %w\n%s", err, said)
	}
	s := &Server{Network: "unix", Address: filepath.Join(dir, ".s.PGSQL.5432")}
	var running *Guarded
	s.Start = func() (err error) {
		running, err = Guard(command("postgres", "-D", data, "-k", dir, "-h", "", "-p", "5432",
			"-c", "logging_collector=on", "-c", "log_directory="+dir, "-c", "log_filename=log"))
		if err != nil {
			return err
		}
		return await(filepath.Join(dir, "log"), func() error {
			return command("pg_isready", "-h", dir, "-p", "5432").Run()
		})
	}
	s.Kill = func() error {
		running.Signal("QUIT") // ends all processes of the server at once
		_ = running.Wait()
		return nil
	}
	return s, s.Start()
}

// PgBouncer starts a PgBouncer in front of a PostgreSQL server. It shares out few
// connections, each for one transaction.
func PgBouncer(dir string, postgres *Server) (*Server, error) {
	program, err := exec.LookPath("pgbouncer")
	if err != nil {
		program, err = exec.LookPath("/usr/sbin/pgbouncer") // which not every user's PATH has
	}
	if err != nil {
		return nil, errors.New("pgbouncer is missing: apt-get install pgbouncer")
	}
	as, err := notRoot(dir)
	if err != nil {
		return nil, err
	}
	s := &Server{Network: "unix", Address: filepath.Join(dir, ".s.PGSQL.6432")}
	log, settings := filepath.Join(dir, "log"), filepath.Join(dir, "ini")
	err = os.WriteFile(settings, fmt.Appendf(nil, `
[databases]
postgres = host=%s user=postgres
[pgbouncer]
pool_mode = transaction
default_pool_size = 4
auth_type = any
unix_socket_dir = %s
logfile = %s
`, filepath.Dir(postgres.Address), dir, log), 0o644)
	if err != nil {
		return nil, err
	}
	var running *Guarded
	s.Start = func() (err error) {
		cmd := exec.Command(program, "-q", settings)
		cmd.Dir, cmd.SysProcAttr = dir, as
		if running, err = Guard(cmd); err != nil {
			return err
		}
		return await(log, func() error {
			conn, err := net.Dial(s.Network, s.Address)
			if err != nil {
				return err
			}
			return conn.Close()
		})
	}
	s.Kill = func() error {
		running.Signal("KILL")
		_ = running.Wait() // returns that it was killed
		return nil
	}
	return s, s.Start()
}

// notRoot returns the attributes of a process that does not run as root,
// because PostgreSQL refuses root. For root, it gives the directory to the user
// postgres and returns that user's attributes.
func notRoot(dir string) (*syscall.SysProcAttr, error) {
	if os.Getuid() != 0 {
		return nil, nil
	}
	postgres, err := user.Lookup("postgres")
	if err != nil {
		return nil, fmt.Errorf("no user postgres: apt-get install postgresql: %w", err)
	}
	uid, uidErr := strconv.Atoi(postgres.Uid)
	gid, gidErr := strconv.Atoi(postgres.Gid)
	if err := errors.Join(uidErr, gidErr, os.Chown(dir, uid, gid)); err != nil {
		return nil, err
	}
	return &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}}, nil
}
