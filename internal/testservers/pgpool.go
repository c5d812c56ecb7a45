// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package testservers

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"
	"syscall"
)

// Pgpool is a throwaway Pgpool-II. It runs until Remove is called.
type Pgpool struct{ pooler }

// PgpoolConfig describes a new Pgpool-II.
type PgpoolConfig struct {
	// Bin is the path of the program.
	Bin string
	// Servers are the ports on 127.0.0.1 of the servers behind it.
	Servers []int
	// Children is num_init_children: how many clients it serves at a time. Others wait. 0 means 4.
	Children int
	// Reserved is reserved_connections: from Children minus Reserved clients on, it refuses others instead.
	Reserved int
	// Settings are lines such as "child_life_time = 1". They override the defaults.
	Settings []string
	// Users maps the names of users to their passwords, which are the same at the servers and contain no colon and no
	// backslash.
	Users map[string]string
}

// NewPgpool starts a Pgpool-II in raw mode, which uses the first server that is up, and waits until it listens. ctx
// bounds the start only. If NewPgpool fails, it leaves no process and no file.
func NewPgpool(ctx context.Context, c PgpoolConfig) (*Pgpool, error) {
	p := &Pgpool{}
	if err := p.create(c); err != nil {
		return nil, errors.Join(err, p.Remove())
	}
	if err := p.Start(ctx); err != nil {
		return nil, errors.Join(err, p.Remove())
	}
	return p, nil
}

func (p *Pgpool) create(c PgpoolConfig) error {
	if err := p.pooler.create(c.Bin); err != nil {
		return err
	}
	settings := []string{
		"backend_clustering_mode = 'raw'", "listen_addresses = '127.0.0.1'", fmt.Sprintf("port = %d", p.Port),
		"unix_socket_directories = '" + p.Dir + "'", "pcp_listen_addresses = ''", "pcp_socket_dir = '" + p.Dir + "'",
		"pid_file_name = '" + p.path("pid") + "'", "work_dir = '" + p.Dir + "'",
		"enable_pool_hba = on", "pool_passwd = '" + p.path("pool_passwd") + "'",
		fmt.Sprintf("num_init_children = %d", cmp.Or(c.Children, 4)), fmt.Sprintf("reserved_connections = %d", c.Reserved),
		"memqcache_total_size = 1MB", "memqcache_max_num_cache = 1000", // it allocates them even if it caches nothing
	}
	for i, port := range c.Servers {
		settings = append(settings,
			fmt.Sprintf("backend_hostname%d = '127.0.0.1'", i), fmt.Sprintf("backend_port%d = %d", i, port))
	}
	var users strings.Builder
	for name, password := range c.Users {
		fmt.Fprintf(&users, "%s:TEXT%s\n", name, password)
	}
	return errors.Join(
		p.write("pgpool.conf", strings.Join(append(settings, c.Settings...), "\n")+"\n"),
		p.write("hba", "host all all 127.0.0.1/32 scram-sha-256\n"),
		p.write("pool_passwd", users.String()),
		p.write("pcp", ""),
	)
}

// Start starts Pgpool-II after it has stopped, and waits until it listens. It forgets which servers were down. ctx bounds
// the wait only.
func (p *Pgpool) Start(ctx context.Context) error {
	return p.start(ctx, "Pgpool-II",
		"-n", "-D", "-f", p.path("pgpool.conf"), "-a", p.path("hba"), "-F", p.path("pcp"))
}

// Remove stops Pgpool-II immediately, even if its process is stopped, and removes its folder.
func (p *Pgpool) Remove() error { return p.remove(syscall.SIGQUIT) }
