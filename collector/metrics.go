// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package collector

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"

	"pg_liveness_exporter/config"
	"pg_liveness_exporter/monitor"
	"pg_liveness_exporter/probe"
)

// metric is a metric of a target, with a function that reads it from a snapshot.
type metric struct {
	name, help string
	labels     []string // in alphabetical order
	kind       dto.MetricType
	// read emits the series of the metric, or none if the value is unknown. A histogram has the function histogram
	// instead, which returns nil if the target has no such histogram.
	read      func(s *monitor.Snapshot, emit emit)
	histogram func(s *monitor.Snapshot) prometheus.Histogram
}

// emit adds a series. labels are the values of the metric's labels, in the same order.
type emit func(value float64, labels ...string)

// number emits a value if it is known.
func (e emit) number(n probe.Number, labels ...string) {
	if n.Known {
		e(n.Value, labels...)
	}
}

func (e emit) time(t time.Time, labels ...string) {
	if !t.IsZero() {
		e(float64(t.UnixNano())/1e9, labels...)
	}
}

func (e emit) bool(b bool, labels ...string) {
	if b {
		e(1, labels...)
	} else {
		e(0, labels...)
	}
}

// Table has all metrics of a target. It does not change, and any goroutine may use it.
type Table struct{ metrics []metric }

const (
	gauge   = dto.MetricType_GAUGE
	counter = dto.MetricType_COUNTER
)

// NewTable returns the metrics of all kinds of servers. If compat is set, it also has metrics under postgres_exporter's
// names.
func NewTable(compat bool) *Table {
	t := &Table{}
	t.probes()
	t.keptSession()
	t.commits()
	t.connections()
	t.sessionStats()
	t.server()
	t.tls()
	t.replication()
	t.pgbouncer()
	if compat {
		t.compat()
	}
	t.histogram(connectName, connectHelp, func(s *monitor.Snapshot) prometheus.Histogram { return s.Connect })
	t.histogram(queryName, queryHelp, func(s *monitor.Snapshot) prometheus.Histogram { return s.Query })
	t.histogram(commitName, commitHelp, func(s *monitor.Snapshot) prometheus.Histogram { return s.Commit })
	slices.SortFunc(t.metrics, func(a, b metric) int { return strings.Compare(a.name, b.name) })
	return t
}

func (t *Table) add(kind dto.MetricType, name, help string, labels []string, read func(*monitor.Snapshot, emit)) {
	t.metrics = append(t.metrics, metric{name: name, help: help, labels: labels, kind: kind, read: read})
}

func (t *Table) histogram(name, help string, of func(*monitor.Snapshot) prometheus.Histogram) {
	t.metrics = append(t.metrics, metric{name: name, help: help, kind: dto.MetricType_HISTOGRAM, histogram: of})
}

// serverStat adds a gauge that is absent if no session could read the server statistics.
func (t *Table) serverStat(name, help string, labels []string, read func(*probe.ServerStats, emit)) {
	t.add(gauge, name, help, labels, func(s *monitor.Snapshot, emit emit) {
		if s.Result.ServerStats != nil {
			read(s.Result.ServerStats, emit)
		}
	})
}

// probes adds the metrics of the probe itself. All kinds of servers have the same ones, except that each kind has its
// own metric for up.
func (t *Table) probes() {
	up := func(name, help string, kind config.Kind) {
		t.add(gauge, name, help, nil, func(s *monitor.Snapshot, emit emit) {
			if s.Kind == kind {
				emit.bool(s.Result.Up())
			}
		})
	}
	up("pg_up", "Whether this probe opened a new session and SELECT 1 answered in time.", config.KindPostgres)
	up("pgbouncer_up",
		"Whether this probe opened a new session with the console of a PgBouncer and SHOW VERSION answered in time.",
		config.KindPgBouncer)
	t.add(gauge, "pg_probe_state", "The verdict of this probe: exactly one state is 1.", []string{"state"},
		func(s *monitor.Snapshot, emit emit) {
			for _, state := range probe.States() {
				emit.bool(s.Result.State() == state, string(state))
			}
		})
	t.add(counter, "pg_probes_total", "Number of probes.", nil,
		func(s *monitor.Snapshot, emit emit) { emit(float64(s.Probes)) })
	t.add(counter, "pg_probe_failures_total", "Number of failed probes by reason.", []string{"reason"},
		func(s *monitor.Snapshot, emit emit) {
			for _, reason := range probe.Reasons() {
				emit(float64(s.Failures[reason]), string(reason))
			}
		})
	t.add(gauge, "pg_probe_consecutive_failures", "Number of failed probes since the last one that succeeded.", nil,
		func(s *monitor.Snapshot, emit emit) { emit(float64(s.ConsecutiveFailures())) })
	t.add(gauge, "pg_probe_consecutive_down",
		"Number of probes in a row that found the server down: no_response or rejecting. Any other state resets it.", nil,
		func(s *monitor.Snapshot, emit emit) { emit(float64(s.ConsecutiveDown)) })
	t.add(gauge, "pg_probe_down_seconds",
		"Seconds from the last probe that found the server alive, or from the first probe, to the last probe; 0 while it is alive.", nil,
		func(s *monitor.Snapshot, emit emit) { emit(s.DownFor.Seconds()) })
	t.add(gauge, "pg_probe_last_success_timestamp_seconds", "When a probe last succeeded.", nil,
		func(s *monitor.Snapshot, emit emit) { emit.time(s.LastSuccess) })
	t.add(gauge, "pg_probe_phase_duration_seconds",
		"Duration of this probe's new session, phase by phase; a phase that was not reached is absent.", []string{"phase"},
		func(s *monitor.Snapshot, emit emit) {
			for _, phase := range probe.AllPhases() {
				emit.number(s.Result.Phases[phase].Seconds(), phase.String())
			}
		})
	t.add(gauge, "pg_probe_last_duration_seconds", "Duration of this probe, without the commit.", nil,
		func(s *monitor.Snapshot, emit emit) { emit(s.Result.Duration.Seconds()) })
	t.add(gauge, "pg_probe_deadline_seconds", "Time limit of this probe, or of this scrape's wait for it if that is shorter.", nil,
		func(s *monitor.Snapshot, emit emit) { emit(s.Result.Deadline.Seconds()) })
}

// keptSession adds the metrics of the kept session.
func (t *Table) keptSession() {
	t.add(gauge, "pg_kept_session_up", "Whether the session that is kept between probes answered SELECT 1.", nil,
		func(s *monitor.Snapshot, emit emit) {
			if s.Result.Keep {
				emit.bool(s.Result.KeptUp)
			}
		})
	t.add(counter, "pg_session_losses_total", "Kept sessions that were ended by the other side, by reason.",
		[]string{"reason"},
		func(s *monitor.Snapshot, emit emit) {
			if !s.Result.Keep || s.Kind != config.KindPostgres { // PgBouncer does not report why it ends a session
				return
			}
			for _, reason := range probe.LossReasons() {
				emit(float64(s.Losses[reason]), string(reason))
			}
		})
	t.add(gauge, "pg_session_last_loss_timestamp_seconds", "When a kept session was last ended by the other side.", nil,
		func(s *monitor.Snapshot, emit emit) {
			if s.Kind == config.KindPostgres {
				emit.time(s.LastLoss)
			}
		})
}

// commits adds the metrics of the commit probe, except its histogram.
func (t *Table) commits() {
	t.add(gauge, "pg_commit_up",
		"Whether the commit probe committed its transaction in time, on synchronous standbys too. Absent on a replica.",
		nil, func(s *monitor.Snapshot, emit emit) { emit.number(s.CommitResult.Up()) })
}

// connections adds the metrics of the connections and their limits.
func (t *Table) connections() {
	t.serverStat("pg_connections", "Client connections by database and state.", []string{"datname", "state"},
		func(s *probe.ServerStats, emit emit) {
			for _, c := range s.Connections {
				emit(float64(c.Count), c.Database, c.State)
			}
		})
	t.serverStat("pg_connections_used",
		"Client connection slots taken; an upper bound if the role does not see other roles' sessions.", nil,
		func(s *probe.ServerStats, emit emit) { emit.number(s.Used) })
	t.serverStat("pg_connections_usable",
		"Client connection slots that ordinary roles may use: max_connections less the reserved ones.", nil,
		func(s *probe.ServerStats, emit emit) { emit.number(s.Usable) })
	t.serverStat("pg_settings_max_connections", "Setting max_connections.", nil,
		func(s *probe.ServerStats, emit emit) { emit.number(s.MaxConnections) })
	t.serverStat("pg_settings_superuser_reserved_connections", "Setting superuser_reserved_connections.", nil,
		func(s *probe.ServerStats, emit emit) { emit.number(s.SuperuserReservedConnections) })
	t.serverStat("pg_settings_reserved_connections", "Setting reserved_connections (PostgreSQL 16 and later).", nil,
		func(s *probe.ServerStats, emit emit) { emit.number(s.ReservedConnections) })
	t.serverStat("pg_database_connection_limit", "Connection limit of a database that has one.", []string{"datname"},
		func(s *probe.ServerStats, emit emit) {
			for _, d := range s.DatabaseLimits {
				emit(float64(d.Limit), d.Database)
			}
		})
	t.serverStat("pg_role_connection_limit", "Connection limit of the exporter's role, if it has one.", nil,
		func(s *probe.ServerStats, emit emit) { emit.number(s.RoleLimit) })
	t.serverStat("pg_connections_lock_waiting", "Client connections that wait for a lock.", nil,
		func(s *probe.ServerStats, emit emit) { emit.number(s.LockWaiting) })
	t.serverStat("pg_idle_in_transaction_max_seconds",
		"Longest time a client connection has been idle in transaction.", nil,
		func(s *probe.ServerStats, emit emit) { emit.number(s.IdleInTransactionMax) })
	t.serverStat("pg_transaction_max_seconds", "Age of the oldest transaction of a client connection.", nil,
		func(s *probe.ServerStats, emit emit) { emit.number(s.TransactionMax) })
	t.serverStat("pg_connections_by_application",
		"Client connections by application name: the largest 20 and the rest as other.", []string{"application_name"},
		func(s *probe.ServerStats, emit emit) {
			for _, a := range s.Applications {
				emit(float64(a.Count), a.Name)
			}
		})
	t.serverStat("pg_stats_privileged",
		"Whether the role sees other roles' sessions (pg_monitor, pg_read_all_stats).", nil,
		func(s *probe.ServerStats, emit emit) {
			if s.Used.Known {
				emit.bool(s.Privileged)
			}
		})
}

// sessionStats adds the session statistics.
func (t *Table) sessionStats() {
	add := func(name, help string, of func(probe.SessionStats) float64) {
		t.add(counter, name, help, []string{"datname"}, func(s *monitor.Snapshot, emit emit) {
			if s.Result.ServerStats == nil {
				return
			}
			for _, c := range s.Result.ServerStats.SessionStats {
				emit(of(c), c.Database)
			}
		})
	}
	add("pg_sessions_total", "Sessions that were begun (PostgreSQL 14 and later).",
		func(c probe.SessionStats) float64 { return c.Sessions })
	add("pg_sessions_abandoned_total", "Sessions that ended because the client was lost.",
		func(c probe.SessionStats) float64 { return c.Abandoned })
	add("pg_sessions_fatal_total", "Sessions that were ended by a fatal error.",
		func(c probe.SessionStats) float64 { return c.Fatal })
	add("pg_sessions_killed_total", "Sessions that were ended by an administrator.",
		func(c probe.SessionStats) float64 { return c.Killed })
}

// server adds the metrics of the server itself.
func (t *Table) server() {
	t.serverStat("pg_postmaster_start_time_seconds", "When the server started.", nil,
		func(s *probe.ServerStats, emit emit) { emit.number(s.PostmasterStart) })
	t.serverStat("pg_checkpointer_start_time_seconds",
		"When the checkpointer was started. After a crash restart, this is later than the start of the server.", nil,
		func(s *probe.ServerStats, emit emit) { emit.number(s.CheckpointerStart) })
	t.serverStat("pg_server_info", "The server's version.", []string{"version", "version_num"},
		func(s *probe.ServerStats, emit emit) {
			if s.Version != "" {
				emit(1, s.Version, s.VersionNum)
			}
		})
}

// tls adds the metrics of the TLS of the new session.
func (t *Table) tls() {
	t.add(gauge, "pg_tls_certificate_not_after_timestamp_seconds",
		"When the server's certificate expires, as seen in this probe's handshake, even if the exporter did not accept it.", nil,
		func(s *monitor.Snapshot, emit emit) {
			if s.Result.TLS != nil {
				emit.time(s.Result.TLS.NotAfter)
			}
		})
	t.add(gauge, "pg_tls_info", "TLS version and cipher suite of this probe's new session.", []string{"cipher", "version"},
		func(s *monitor.Snapshot, emit emit) {
			if shown := s.Result.TLS; shown != nil && shown.Version != "" {
				emit(1, shown.Cipher, shown.Version)
			}
		})
}

// replication adds the metrics of the server's role, and of a replica.
func (t *Table) replication() {
	t.add(gauge, "pg_replication_is_replica", "Whether the server is in recovery.", nil,
		func(s *monitor.Snapshot, emit emit) {
			switch r := s.Result; {
			case r.Role != nil:
				emit.bool(r.Role.Replica)
			case !r.Up() && r.ServerStats != nil && r.ServerStats.Role != nil: // the other statistics are the kept session's as well
				emit.bool(r.ServerStats.Role.Replica)
			}
		})
	t.add(gauge, "pg_transaction_read_only",
		"Whether a new transaction cannot write: on a replica, or by default_transaction_read_only.", nil,
		func(s *monitor.Snapshot, emit emit) {
			switch r := s.Result; {
			case r.Role != nil:
				emit.bool(r.Role.ReadOnly)
			case !r.Up() && r.ServerStats != nil && r.ServerStats.Role != nil:
				emit.bool(r.ServerStats.Role.ReadOnly)
			}
		})
	t.serverStat("pg_wal_receiver_up", "Whether a replica's WAL receiver is streaming.", nil,
		func(s *probe.ServerStats, emit emit) { emit.number(s.WALReceiverUp) })
	t.serverStat("pg_replication_lag_seconds",
		"Replicas only. 0 if everything received has been replayed and the WAL receiver is streaming; otherwise the age of the last "+
			"replayed transaction, at most the time since the lag was last 0.", nil,
		func(s *probe.ServerStats, emit emit) { emit.number(s.ReplicationLag) })
	t.serverStat("pg_replication_apply_delay_seconds",
		"Setting recovery_min_apply_delay of a replica, if it is set: how far it stays behind on purpose.", nil,
		func(s *probe.ServerStats, emit emit) { emit.number(s.ApplyDelay) })
}

const (
	connectName = "pg_connect_duration_seconds"
	connectHelp = "Duration of opening a new session, until the server is ready for a query."
	queryName   = "pg_query_duration_seconds"
	queryHelp   = "Duration of SELECT 1 (on a PgBouncer, SHOW VERSION) on the kept session, " +
		"or on the new session if none is kept."
	commitName = "pg_commit_duration_seconds"
	commitHelp = "Duration of the transaction that the commit probe commits."

	nativeFactor     = 1.1
	maxNativeBuckets = 100
	minNativeReset   = time.Hour
)

// NewHistograms returns new histograms for a target. Commit is nil unless commits is set.
func NewHistograms(commits bool) monitor.Histograms {
	h := monitor.Histograms{Connect: newConnectHistogram(), Query: newQueryHistogram()}
	if commits {
		h.Commit = newCommitHistogram()
	}
	return h
}

func newConnectHistogram() prometheus.Histogram {
	return newHistogram(connectName, connectHelp,
		.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10)
}

func newCommitHistogram() prometheus.Histogram {
	return newHistogram(commitName, commitHelp,
		.00025, .0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10)
}

func newQueryHistogram() prometheus.Histogram {
	return newHistogram(queryName, queryHelp,
		.00005, .0001, .00025, .0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10)
}

// newHistogram returns a histogram with classic and native buckets. The scraper chooses between them.
func newHistogram(name, help string, buckets ...float64) prometheus.Histogram {
	return prometheus.NewHistogram(prometheus.HistogramOpts{
		Name: name, Help: help, Buckets: buckets,
		NativeHistogramBucketFactor:     nativeFactor,
		NativeHistogramMaxBucketNumber:  maxNativeBuckets,
		NativeHistogramMinResetDuration: minNativeReset,
	})
}

// View gathers the metrics of targets from their snapshots. It is a prometheus.Gatherer that does no I/O.
type View struct {
	table     *Table
	snapshots []monitor.Snapshot
	labels    [][]*dto.LabelPair // of the target of each snapshot, sorted by name
}

// View returns the view for /probe: one snapshot, without the label target.
func (t *Table) View(s monitor.Snapshot) *View {
	return &View{t, []monitor.Snapshot{s}, make([][]*dto.LabelPair, 1)}
}

// LabelledView returns the view for /metrics: several snapshots, each with the label target and the target's own labels.
// The target from the environment has none of them.
func (t *Table) LabelledView(snapshots []monitor.Snapshot) *View {
	v := &View{t, snapshots, make([][]*dto.LabelPair, len(snapshots))}
	for i := range snapshots {
		if s := &snapshots[i]; !s.Implied {
			v.labels[i] = targetLabels(s.Target, s.Labels)
		}
	}
	return v
}

// targetLabel is the name of the label that has the target's name.
const targetLabel = "target"

// targetLabels returns the labels of a target on /metrics, sorted by name: its name, which is empty for a check without a
// target, and its own labels.
func targetLabels(name string, own []config.Label) []*dto.LabelPair {
	pairs := make([]*dto.LabelPair, 0, len(own)+1)
	for _, l := range append(slices.Clone(own), config.Label{Name: targetLabel, Value: name}) {
		pairs = append(pairs, &dto.LabelPair{Name: &l.Name, Value: &l.Value})
	}
	sortLabels(pairs)
	return pairs
}

func sortLabels(pairs []*dto.LabelPair) {
	slices.SortFunc(pairs, func(a, b *dto.LabelPair) int { return strings.Compare(a.GetName(), b.GetName()) })
}

// Gather returns the metrics, sorted by name. Within a metric, the targets keep the order of the snapshots.
func (v *View) Gather() ([]*dto.MetricFamily, error) {
	families := make([]*dto.MetricFamily, 0, len(v.table.metrics))
	for i := range v.table.metrics {
		m := &v.table.metrics[i]
		var series []*dto.Metric
		for j := range v.snapshots {
			added, err := m.series(&v.snapshots[j], v.labels[j])
			if err != nil {
				return nil, fmt.Errorf("%s: %w", m.name, err)
			}
			series = append(series, added...)
		}
		if series != nil {
			families = append(families, &dto.MetricFamily{Name: &m.name, Help: &m.help, Type: &m.kind, Metric: series})
		}
	}
	return families, nil
}

// series returns the series of a metric for one target, sorted by the values of the labels. target has the labels that all
// of them have besides the metric's.
func (m *metric) series(s *monitor.Snapshot, target []*dto.LabelPair) ([]*dto.Metric, error) {
	if m.histogram != nil {
		shown := m.histogram(s)
		if shown == nil {
			return nil, nil
		}
		h := &dto.Metric{}
		err := shown.Write(h)
		h.Label = target
		return []*dto.Metric{h}, err
	}
	var series []*dto.Metric
	m.read(s, func(value float64, labels ...string) { series = append(series, m.sample(value, labels, target)) })
	slices.SortFunc(series, func(a, b *dto.Metric) int {
		return slices.CompareFunc(a.GetLabel(), b.GetLabel(), func(a, b *dto.LabelPair) int {
			return strings.Compare(a.GetValue(), b.GetValue())
		})
	})
	return series, nil
}

// sample returns a series of a gauge or a counter. labels are the values of the metric's labels, and target has the labels
// besides them.
func (m *metric) sample(value float64, labels []string, target []*dto.LabelPair) *dto.Metric {
	s := &dto.Metric{Label: target}
	if len(labels) > 0 {
		s.Label = append(make([]*dto.LabelPair, 0, len(labels)+len(target)), target...)
		for i := range labels {
			s.Label = append(s.Label, &dto.LabelPair{Name: &m.labels[i], Value: &labels[i]})
		}
		sortLabels(s.Label)
	}
	if m.kind == counter {
		s.Counter = &dto.Counter{Value: &value}
	} else {
		s.Gauge = &dto.Gauge{Value: &value}
	}
	return s
}
