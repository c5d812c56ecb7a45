// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"pg_liveness_exporter/internal/testservers"
)

// fault is something that happens to a server.
type fault struct {
	// name is its key in the results. title is its name on the page, and detail says what was done.
	name, title, detail string
	setup               setup
	// writes is whether the fault is about writes. If not, nobody has to notice that an application cannot write.
	writes bool
	// interval replaces the interval between scrapes, for faults that last a short time. 0 keeps it.
	interval time.Duration
	// begin makes it happen and returns what ends it, also together with an error. end may be nil.
	begin func(ctx context.Context, s *scene) (end func(context.Context) error, err error)
}

// catalogue returns all faults in the order of the page.
func catalogue() []fault {
	return slices.Concat(serverFaults(), slotFaults(), accessFaults(), writeFaults(), networkFaults(), poolerFaults())
}

// sql returns the beginning of a fault that a statement begins and another one ends.
func sql(begin, end string) func(context.Context, *scene) (func(context.Context) error, error) {
	return func(ctx context.Context, s *scene) (func(context.Context) error, error) {
		return func(ctx context.Context) error { return s.exec(ctx, end) }, s.exec(ctx, begin)
	}
}

// setting returns the beginning of a fault that a setting of the server makes.
func setting(name, value string) func(context.Context, *scene) (func(context.Context) error, error) {
	return func(ctx context.Context, s *scene) (func(context.Context) error, error) {
		change := func(ctx context.Context, sql string) error {
			return errors.Join(s.exec(ctx, sql), s.exec(ctx, "SELECT pg_reload_conf()"), pause(ctx, reloadTime))
		}
		return func(ctx context.Context) error { return change(ctx, "ALTER SYSTEM RESET "+name) },
			change(ctx, fmt.Sprintf("ALTER SYSTEM SET %s = %s", name, value))
	}
}

// alterRoles returns statements that change some roles.
func alterRoles(option string, roles ...string) string {
	var statements string
	for _, role := range roles {
		statements += fmt.Sprintf("ALTER ROLE %s %s; ", role, option)
	}
	return statements
}

// reloadTime is how long a server may take to read its configuration again.
const reloadTime = 200 * time.Millisecond

// stopServer stops the server. end starts it.
func stopServer(_ context.Context, s *scene) (func(context.Context) error, error) {
	return s.server.Start, s.server.Stop(testservers.Fast)
}

func serverFaults() []fault {
	return []fault{
		{
			name: "healthy", title: "A healthy server", detail: "Nothing happens to it. This case is a control.",
			begin: func(context.Context, *scene) (func(context.Context) error, error) { return nil, nil },
		},
		{
			name: "stopped", title: "The server is stopped", detail: "A fast shutdown. No process listens on the port.",
			begin: stopServer,
		},
		{
			name: "restarted", title: "The server was restarted",
			detail: "A fast shutdown and a start. Sessions that were open before are gone.",
			begin: func(ctx context.Context, s *scene) (func(context.Context) error, error) {
				return nil, errors.Join(s.server.Stop(testservers.Fast), s.server.Start(ctx))
			},
		},
		{
			name: "smart-shutdown", title: "A smart shutdown waits for a session",
			detail: "The server accepts no session, and ends when the last one has ended. One session stays open.",
			begin: func(ctx context.Context, s *scene) (func(context.Context) error, error) {
				end := func(ctx context.Context) error {
					return errors.Join(s.server.Stop(testservers.Fast), s.server.Start(ctx))
				}
				return end, errors.Join(s.server.Signal(testservers.Smart), pause(ctx, reloadTime))
			},
		},
		{
			name: "postmaster-hangs", title: "The postmaster hangs",
			detail: "SIGSTOP for the postmaster. The kernel accepts connections, and open sessions continue.",
			begin: func(_ context.Context, s *scene) (func(context.Context) error, error) {
				return stopProcesses(s.server.PID())
			},
		},
		{
			name: "sessions-hang", title: "Open sessions of the exporters hang",
			detail: "SIGSTOP for the processes of the sessions that the exporters hold. New sessions work.",
			begin: func(_ context.Context, s *scene) (func(context.Context) error, error) {
				return stopProcesses(sessionsOf(s.server.PID(), exporterRoles()...)...)
			},
		},
		{
			name: "all-processes-hang", title: "Every process of the server hangs", detail: "SIGSTOP for all of them.",
			begin: func(_ context.Context, s *scene) (func(context.Context) error, error) {
				return stopProcesses(append(children(s.server.PID()), s.server.PID())...)
			},
		},
		{
			name: "crash-recovery", title: "The server restarts after a crash of a session",
			detail: "A session was killed (SIGKILL), and another one does not end at once. Scraped each second, because the " +
				"server kills that one after 5 s.",
			interval: time.Second,
			begin:    crash,
		},
		{
			name: "hot-standby-off", title: "A standby without hot_standby", detail: "It replays and accepts no session.",
			setup: setup{standby: true},
			begin: func(ctx context.Context, s *scene) (func(context.Context) error, error) {
				restart := func(value string) error {
					return errors.Join(s.server.Stop(testservers.Fast), s.server.Append("postgresql.conf", "hot_standby = "+value))
				}
				end := func(ctx context.Context) error { return errors.Join(restart("on"), s.server.Start(ctx)) }
				return end, errors.Join(restart("off"), s.server.Launch(), s.awaitError(ctx, "57P03"))
			},
		},
		{
			name: "promoted", title: "A standby was promoted", detail: "Since then, it accepts writes.",
			setup: setup{standby: true}, writes: true,
			begin: func(ctx context.Context, s *scene) (func(context.Context) error, error) {
				return nil, s.exec(ctx, "SELECT pg_promote()")
			},
		},
		{
			name: "sessions-killed", title: "The sessions of the exporters were killed",
			detail: "pg_terminate_backend, once. New sessions work.",
			begin: func(ctx context.Context, s *scene) (func(context.Context) error, error) {
				return nil, s.exec(ctx, fmt.Sprintf(
					"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename IN ('%s')", strings.Join(exporterRoles(), "', '")))
			},
		},
		{
			name: "login-4s", title: "Each login takes 4 s",
			detail: "pre_auth_delay = 4. That is longer than the timeout of pg_isready (3 s), and shorter than that of a probe of " +
				"pg_liveness_exporter (5 s).",
			begin: setting("pre_auth_delay", "4"),
		},
		{
			name: "login-7s", title: "Each login takes 7 s",
			detail: "pre_auth_delay = 7. That is longer than both timeouts, and the application waits for it.",
			begin:  setting("pre_auth_delay", "7"),
		},
		{
			name: "login-hangs", title: "Logins hang", detail: "pre_auth_delay = 60. Open sessions continue.",
			begin: setting("pre_auth_delay", "60"),
		},
		{
			name: "logins-hung", title: "Logins hung until a moment ago",
			detail: "pre_auth_delay was 60 during two scrapes, 10 s apart. Logins that began then still hang, and new ones work.",
			begin: func(ctx context.Context, s *scene) (func(context.Context) error, error) {
				end, err := setting("pre_auth_delay", "60")(ctx, s)
				if err != nil {
					return end, err
				}
				s.look(ctx, time.Now())
				s.look(ctx, time.Now()) // the application waits 10 s each time
				return nil, end(ctx)
			},
		},
		{
			name: "catalogue-locked", title: "pg_authid is locked",
			detail: "LOCK TABLE pg_authid IN ACCESS EXCLUSIVE MODE. Logins wait for it, and open sessions continue.",
			begin:  sql("BEGIN; LOCK TABLE pg_authid IN ACCESS EXCLUSIVE MODE", "ROLLBACK"),
		},
		{
			name: "table-locked", title: "A table of the application is locked",
			detail: "LOCK TABLE in ACCESS EXCLUSIVE mode. Logins work, and the query of the application waits.",
			begin:  func(ctx context.Context, s *scene) (func(context.Context) error, error) { return s.lockTable(ctx) },
		},
	}
}

func slotFaults() []fault {
	const slots, reserved = "max_connections = 30", "superuser_reserved_connections = 3"
	fill := func(role, refusal string) func(ctx context.Context, s *scene) (func(context.Context) error, error) {
		return func(ctx context.Context, s *scene) (func(context.Context) error, error) {
			if err := s.slots.Hold(ctx, s.direct(role)); err != nil {
				return nil, err
			}
			return s.slots.Release, s.awaitError(ctx, "53300 "+refusal)
		}
	}
	return []fault{
		{
			name: "no-slot", title: "All connection slots are taken",
			detail: "max_connections = 30. Also those that are reserved for superusers.",
			setup:  setup{settings: []string{slots, reserved}}, begin: fill(testservers.Superuser, "sorry"),
		},
		{
			name: "reserved-slots", title: "Only slots for superusers are left", detail: "max_connections = 30",
			setup: setup{settings: []string{slots, reserved}}, begin: fill("filler", "remaining"),
		},
		{
			name: "database-limit", title: "The database is at its connection limit", detail: "ALTER DATABASE … CONNECTION LIMIT 1",
			begin: sql("ALTER DATABASE "+application+" CONNECTION LIMIT 1", "ALTER DATABASE "+application+" CONNECTION LIMIT -1"),
		},
		{
			name: "application-limit", title: "The role of the application is at its connection limit",
			detail: "ALTER ROLE … CONNECTION LIMIT 0, for that role only.",
			begin:  sql(alterRoles("CONNECTION LIMIT 0", application), alterRoles("CONNECTION LIMIT -1", application)),
		},
		{
			name: "exporter-limit", title: "The roles of the exporters are at their connection limit",
			detail: "ALTER ROLE … CONNECTION LIMIT 1, for the exporters only. The application is not affected.",
			begin:  sql(alterRoles("CONNECTION LIMIT 1", exporterRoles()...), alterRoles("CONNECTION LIMIT 10", exporterRoles()...)),
		},
	}
}

func accessFaults() []fault {
	var passwords string
	for _, role := range exporterRoles() {
		passwords += alterRoles(fmt.Sprintf("PASSWORD '%s'", passwordOf(role)), role)
	}
	return []fault{
		{
			name: "exporter-password", title: "The passwords of the exporters are refused",
			detail: "ALTER ROLE … PASSWORD, for the exporters only. The application is not affected.",
			begin:  sql(alterRoles("PASSWORD 'other'", exporterRoles()...), passwords),
		},
		{
			name: "exporter-nologin", title: "The roles of the exporters may not log in",
			detail: "ALTER ROLE … NOLOGIN, for the exporters only. The application is not affected.",
			begin:  sql(alterRoles("NOLOGIN", exporterRoles()...), alterRoles("LOGIN", exporterRoles()...)),
		},
		{
			name: "application-nologin", title: "The role of the application may not log in",
			detail: "ALTER ROLE … NOLOGIN, for that role only.", begin: sql(alterRoles("NOLOGIN", application), alterRoles("LOGIN", application)),
		},
		{
			name: "database-missing", title: "The database is missing", detail: "DROP DATABASE … WITH (FORCE)",
			begin: func(ctx context.Context, s *scene) (func(context.Context) error, error) {
				end := func(ctx context.Context) error {
					return errors.Join(s.exec(ctx, createDatabase()[0]), s.createTable(ctx))
				}
				return end, s.exec(ctx, "DROP DATABASE "+application+" WITH (FORCE)")
			},
		},
		{
			name: "hba-reject", title: "pg_hba.conf refuses every host", detail: "host all all all reject",
			begin: func(ctx context.Context, s *scene) (func(context.Context) error, error) {
				path := s.data("pg_hba.conf")
				before, err := os.ReadFile(path)
				if err != nil {
					return nil, err
				}
				change := func(ctx context.Context, content []byte) error {
					return errors.Join(os.WriteFile(path, content, 0o600), s.exec(ctx, "SELECT pg_reload_conf()"), pause(ctx, reloadTime))
				}
				return func(ctx context.Context) error { return change(ctx, before) },
					change(ctx, []byte("local all all trust\nhost all all all reject\n"))
			},
		},
		{
			name: "certificate-expired", title: "The certificate of the server has expired",
			detail: "All clients use sslmode=verify-full and trust the certificate.", setup: setup{tls: true},
			begin: func(ctx context.Context, s *scene) (func(context.Context) error, error) {
				change := func(ctx context.Context, c certificate) error {
					return errors.Join(os.WriteFile(s.data("server.crt"), c.certificate, 0o600),
						os.WriteFile(s.data("server.key"), c.key, 0o600), s.exec(ctx, "SELECT pg_reload_conf()"), pause(ctx, reloadTime))
				}
				var before certificate
				var err error
				if before.certificate, err = os.ReadFile(s.data("server.crt")); err != nil {
					return nil, err
				}
				if before.key, err = os.ReadFile(s.data("server.key")); err != nil {
					return nil, err
				}
				return func(ctx context.Context) error { return change(ctx, before) }, change(ctx, s.expired)
			},
		},
	}
}

func writeFaults() []fault {
	return []fault{
		{
			name: "read-only", title: "The server is read-only", detail: "default_transaction_read_only = on", writes: true,
			begin: setting("default_transaction_read_only", "on"),
		},
		{
			name: "commits-hang", title: "Commits hang", writes: true,
			detail: "synchronous_standby_names names a standby that is missing.",
			begin:  setting("synchronous_standby_names", "'missing'"),
		},
		{
			name: "data-disk-full", title: "The disk of the tables is full", writes: true,
			detail: "The folder base is on a disk of its own without free space.", setup: setup{disk: "base"},
			begin: func(_ context.Context, s *scene) (func(context.Context) error, error) { return s.fillDisk("base") },
		},
		{
			name: "wal-disk-full", title: "The disk of the WAL is full", writes: true,
			detail: "The folder pg_wal is on a disk of its own without free space. The server panics when it needs another file.",
			setup:  setup{disk: "pg_wal"},
			begin:  exhaustWAL,
		},
	}
}

func networkFaults() []fault {
	return []fault{
		{
			name: "packets-dropped", title: "The network drops all packets", detail: "iptables DROP in both directions.",
			begin: func(ctx context.Context, s *scene) (func(context.Context) error, error) {
				port := strconv.Itoa(s.access.port)
				return firewall(ctx, []string{"--dport", port, "-j", "DROP"}, []string{"--sport", port, "-j", "DROP"})
			},
		},
		{
			name: "packets-rejected", title: "A firewall rejects all packets", detail: "iptables REJECT, with its default (ICMP).",
			begin: func(ctx context.Context, s *scene) (func(context.Context) error, error) {
				return firewall(ctx, []string{"--dport", strconv.Itoa(s.access.port), "-j", "REJECT"})
			},
		},
		{
			name: "half-open", title: "The network has forgotten open connections",
			detail: "Packets of connections that were open before are dropped, as after a restart of a firewall. New connections work.",
			begin: func(ctx context.Context, s *scene) (func(context.Context) error, error) {
				clients, err := clientPorts(s.access.port)
				if err != nil {
					return nil, err
				}
				var rules [][]string
				for _, client := range clients {
					rules = append(rules, []string{"--sport", strconv.Itoa(client), "-j", "DROP"}, []string{"--dport", strconv.Itoa(client), "-j", "DROP"})
				}
				return firewall(ctx, rules...)
			},
		},
		{
			name: "tls-hangs", title: "The TLS handshake hangs",
			detail: "Something else listens on the port, agrees to TLS and then says nothing. All clients use sslmode=verify-full.",
			setup:  setup{tls: true},
			begin: func(ctx context.Context, s *scene) (func(context.Context) error, error) {
				return s.replaceServer(ctx, func(conn net.Conn) {
					request := make([]byte, 8)
					if _, err := io.ReadFull(conn, request); err != nil {
						return
					}
					if _, err := conn.Write([]byte("S")); err == nil {
						testservers.Silent(conn)
					}
				})
			},
		},
		{
			name: "silent-port", title: "Something silent listens on the port", detail: "It accepts connections and never answers.",
			begin: func(ctx context.Context, s *scene) (func(context.Context) error, error) {
				return s.replaceServer(ctx, testservers.Silent)
			},
		},
		{
			name: "http-port", title: "An HTTP server listens on the port", detail: "It answers everything with status 400.",
			begin: func(ctx context.Context, s *scene) (func(context.Context) error, error) {
				return s.replaceServer(ctx, func(conn net.Conn) {
					if _, err := conn.Read(make([]byte, 1024)); err == nil {
						_, _ = conn.Write([]byte("HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"))
					}
				})
			},
		},
	}
}

func poolerFaults() []fault {
	pooler := setup{pooler: true}
	return []fault{
		{
			name: "pooler-healthy", title: "A healthy PgBouncer",
			detail: "It is in front of a healthy server. This case is a control.", setup: pooler,
			begin: func(context.Context, *scene) (func(context.Context) error, error) { return nil, nil },
		},
		{
			name: "pooler-paused", title: "PgBouncer is paused", detail: "PAUSE on its console.", setup: pooler,
			begin: func(ctx context.Context, s *scene) (func(context.Context) error, error) {
				end := func(ctx context.Context) error { return s.console(ctx, "RESUME "+application) }
				return end, s.console(ctx, "PAUSE "+application)
			},
		},
		{
			name: "pooler-alone", title: "PgBouncer has no server", detail: "The server behind it is stopped.", setup: pooler,
			begin: stopServer,
		},
		{
			name: "pooler-stopped", title: "PgBouncer is stopped", detail: "The server behind it is healthy.", setup: pooler,
			begin: func(_ context.Context, s *scene) (func(context.Context) error, error) {
				return s.pooler.Start, errors.Join(s.pooler.Signal(syscall.SIGQUIT), s.pooler.Wait(endTimeout))
			},
		},
	}
}

// awaitError waits until five logins of the application in a row were refused, each with an error that begins so. A
// single one can be refused because of a slot that becomes free in a moment.
func (s *scene) awaitError(ctx context.Context, beginning string) error {
	for refused := 0; refused < 5; refused++ {
		if m := use(ctx, s.applicationDSN()); m.Failed != stepLogin || !strings.HasPrefix(m.Error, beginning) {
			refused = -1
		}
		if err := pause(ctx, reloadTime); err != nil {
			return fmt.Errorf("no login was refused with %s: %w", beginning, err)
		}
	}
	return nil
}

// crash kills a session, and stops another one that delays the restart of the server.
func crash(ctx context.Context, s *scene) (func(context.Context) error, error) {
	var pids []int
	for range 2 {
		conn, err := s.server.Connect(ctx)
		if err != nil {
			return nil, err
		}
		pids = append(pids, int(conn.PID()))
	}
	_, err := stopProcesses(pids[0])
	end := func(ctx context.Context) error {
		for s.server.Exec(ctx, "SELECT 1") != nil {
			if err := pause(ctx, reloadTime); err != nil {
				return err
			}
		}
		return nil
	}
	return end, errors.Join(err, syscall.Kill(pids[1], syscall.SIGKILL), pause(ctx, reloadTime))
}

// lockTable locks the table of the application.
func (s *scene) lockTable(ctx context.Context) (func(context.Context) error, error) {
	conn, err := pgconn.Connect(ctx, s.direct(testservers.Superuser))
	if err != nil {
		return nil, err
	}
	_, err = conn.Exec(ctx, "BEGIN; LOCK TABLE visit IN ACCESS EXCLUSIVE MODE").ReadAll()
	return conn.Close, err
}

// fillDisk writes a file to a folder until its disk is full. end removes the file.
func (s *scene) fillDisk(folder string) (end func(context.Context) error, err error) {
	path := filepath.Join(s.data(folder), "filler")
	f, err := os.Create(path)
	if err != nil {
		return nil, err
	}
	end = func(context.Context) error { return os.Remove(path) }
	for _, size := range []int{1 << 20, 1 << 12} { // the last bytes too
		for err == nil {
			_, err = f.Write(make([]byte, size))
		}
		if !errors.Is(err, syscall.ENOSPC) {
			return end, errors.Join(err, f.Close())
		}
		err = nil
	}
	return end, f.Close()
}

// exhaustWAL fills the disk of the WAL and makes the server need another file of it, until it refuses sessions.
func exhaustWAL(ctx context.Context, s *scene) (func(context.Context) error, error) {
	free, err := s.fillDisk("pg_wal")
	if err != nil {
		return free, err
	}
	end := func(ctx context.Context) error {
		if err := free(ctx); err != nil {
			return err
		}
		select {
		case <-s.server.Exited():
			return s.server.Start(ctx)
		case <-time.After(settleTime):
		}
		for s.server.Exec(ctx, "SELECT 1") != nil {
			if err := pause(ctx, reloadTime); err != nil {
				return err
			}
		}
		return nil
	}
	for range 20 { // some files may have been prepared before
		short, cancel := context.WithTimeout(ctx, settleTime)
		err := s.exec(short, "SELECT txid_current(); SELECT pg_switch_wal()")
		cancel()
		if err != nil {
			return end, pause(ctx, settleTime) // for the restart, which fails too
		}
	}
	return end, errors.New("the server does not need another file of the WAL")
}

// firewall adds rules for TCP, each for packets in the given direction. end removes them.
func firewall(ctx context.Context, rules ...[]string) (end func(context.Context) error, err error) {
	change := func(ctx context.Context, how string) error {
		var err error
		for _, rule := range rules {
			err = errors.Join(err, run(ctx, "iptables", append([]string{"--wait", how, "INPUT", "--protocol", "tcp"}, rule...)...))
		}
		return err
	}
	return func(ctx context.Context) error { return change(ctx, "--delete") }, change(ctx, "--append")
}

// replaceServer stops the server and lets something else listen on its port.
func (s *scene) replaceServer(ctx context.Context, handle func(net.Conn)) (func(context.Context) error, error) {
	if err := s.server.Stop(testservers.Fast); err != nil {
		return s.server.Start, err
	}
	other, err := testservers.NewFakeServerOn(ctx, s.server.Port, handle)
	if err != nil {
		return s.server.Start, err
	}
	return func(ctx context.Context) error { return errors.Join(other.Close(), s.server.Start(ctx)) }, nil
}
