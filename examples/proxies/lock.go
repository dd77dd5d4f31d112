package main

import (
	"errors"
	"net"
	"os"
	"syscall"
)

var errInUse = errors.New("another program listens there: end it first, or name another socket")

// lockSocket locks the path of a Unix socket for this process. Two programs
// that start at the same time could otherwise remove each other's socket. The
// system releases the lock when the process is killed. The file stays: if it
// were removed, two programs could lock two files of that name.
func lockSocket(path string) (*os.File, error) {
	lock, err := os.OpenFile(path+".lock", os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	err = syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	if errors.Is(err, syscall.EWOULDBLOCK) {
		err = errInUse
	}
	if err != nil {
		return nil, errors.Join(err, lock.Close())
	}
	return lock, nil
}

// unlock releases a lock. To close the file is not enough: a child process has a
// copy of it between fork and exec.
func unlock(lock *os.File) error {
	return errors.Join(syscall.Flock(int(lock.Fd()), syscall.LOCK_UN), lock.Close())
}

// A lockedListener holds the lock of its socket until the socket is removed.
type lockedListener struct {
	net.Listener
	lock *os.File
}

func (l *lockedListener) Close() error { return errors.Join(l.Listener.Close(), unlock(l.lock)) }
