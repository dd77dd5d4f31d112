// Package servers starts the servers that the tests use, from the machine's own packages and without touching a server
// that is already there: each has a directory of its own, and listens on nothing but a socket in it.
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

// A Server is a server that can be killed and started again on the same data.
type Server struct {
	Network, Address string // to connect to

	// Start starts the server again.
	Start func() error

	// Kill ends the server as a crash would: it has no time to write anything down.
	Kill func() error
}

// Restart kills the server and starts it again.
func (s *Server) Restart() error { return errors.Join(s.Kill(), s.Start()) }

// A Use says where to put which server for the tests of a package.
type Use struct {
	In    **Server
	Start func(dir string) (*Server, error)
}

// Main runs the tests of a package with servers, and returns the exit status.
func Main(m *testing.M, uses ...Use) int {
	for _, use := range uses {
		dir, err := os.MkdirTemp("", "dedup") // a short name, since that of a socket must not be over 107 bytes
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

// Redis starts a redis-server that has on disk what it has acknowledged.
func Redis(dir string) (*Server, error) { return startRedis(dir) }

// RedisCluster starts a redis-server that is a cluster of one node, as strict about slots as one of many.
func RedisCluster(dir string) (*Server, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	busPort := listener.Addr().(*net.TCPAddr).Port // which no other node will ever connect to
	listener.Close()
	s, err := startRedis(dir, "--cluster-enabled", "yes", "--cluster-port", strconv.Itoa(busPort), "--bind", "127.0.0.1")
	if err != nil {
		return nil, err
	}
	return s, errors.Join(
		s.ask("CLUSTER ADDSLOTSRANGE 0 16383", "+OK"),
		await(filepath.Join(dir, "log"), func() error { return s.ask("GET x", "$-1") }),
	)
}

func startRedis(dir string, args ...string) (*Server, error) {
	program, err := exec.LookPath("redis-server")
	if err != nil {
		return nil, errors.New("redis-server is not there: apt-get install redis-server")
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
		_ = running.Wait() // which says that it was killed
		return nil
	}
	return s, s.Start()
}

// ask sends a command to a redis-server and wants an answer.
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
		return fmt.Errorf("%s is answered %q: %w", command, got, err)
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
			return fmt.Errorf("the server does not come up: %w\n%s", err, said)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// Postgres starts a PostgreSQL server with an empty database postgres and a superuser postgres without a password.
func Postgres(dir string) (*Server, error) {
	found, err := filepath.Glob("/usr/lib/postgresql/*/bin/pg_ctl")
	if err != nil || len(found) == 0 {
		return nil, errors.New("/usr/lib/postgresql/*/bin/pg_ctl is not there: apt-get install postgresql")
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
		running.Signal("QUIT") // the server ends all of its processes at once and writes nothing down
		_ = running.Wait()
		return nil
	}
	return s, s.Start()
}

// notRoot gives the directory to the user postgres and says how to run as that user, where this is root: PostgreSQL
// refuses to run as root.
func notRoot(dir string) (*syscall.SysProcAttr, error) {
	if os.Getuid() != 0 {
		return nil, nil
	}
	postgres, err := user.Lookup("postgres")
	if err != nil {
		return nil, fmt.Errorf("no user to run PostgreSQL as: apt-get install postgresql: %w", err)
	}
	uid, uidErr := strconv.Atoi(postgres.Uid)
	gid, gidErr := strconv.Atoi(postgres.Gid)
	if err := errors.Join(uidErr, gidErr, os.Chown(dir, uid, gid)); err != nil {
		return nil, err
	}
	return &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}}, nil
}
