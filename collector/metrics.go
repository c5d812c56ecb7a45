package collector

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"pg_liveness_exporter/probe"
)

// metric is one row of the table of all metrics of a target: what it is called, and how it is read off a snapshot.
type metric struct {
	desc *prometheus.Desc
	kind prometheus.ValueType
	// read emits the metric's series; none where the value is unknown.
	read func(s *Snapshot, emit emit)
}

// emit adds a series with the values of the metric's labels.
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

// Table is what is shown of each target. It is made once and shared.
type Table struct {
	metrics        []metric
	connect, query *prometheus.Desc
}

const (
	gauge   = prometheus.GaugeValue
	counter = prometheus.CounterValue
)

// NewTable returns the metrics of a PostgreSQL server.
func NewTable() *Table {
	t := &Table{
		connect: prometheus.NewDesc(connectName, connectHelp, nil, nil),
		query:   prometheus.NewDesc(queryName, queryHelp, nil, nil),
	}
	t.probes()
	t.sessions()
	t.connections()
	t.server()
	return t
}

func (t *Table) add(kind prometheus.ValueType, name, help string, labels []string, read func(*Snapshot, emit)) {
	t.metrics = append(t.metrics, metric{prometheus.NewDesc(name, help, labels, nil), kind, read})
}

// figure adds a gauge that is absent while no session could read the figures.
func (t *Table) figure(name, help string, labels []string, read func(*probe.Figures, emit)) {
	t.add(gauge, name, help, labels, func(s *Snapshot, emit emit) {
		if s.Result.Figures != nil {
			read(s.Result.Figures, emit)
		}
	})
}

// probes are the metrics of the probe itself, the same for every kind of server.
func (t *Table) probes() {
	t.add(gauge, "pg_up", "Whether this probe opened a new session and SELECT 1 answered in time.", nil,
		func(s *Snapshot, emit emit) { emit.bool(s.Result.Up()) })
	t.add(gauge, "pg_probe_state", "The verdict of this probe: exactly one state is 1.", []string{"state"},
		func(s *Snapshot, emit emit) {
			for _, state := range probe.States() {
				emit.bool(s.Result.State() == state, string(state))
			}
		})
	t.add(counter, "pg_probes_total", "Probes.", nil,
		func(s *Snapshot, emit emit) { emit(float64(s.probes)) })
	t.add(counter, "pg_probe_failures_total", "Probes that failed, by reason.", []string{"reason"},
		func(s *Snapshot, emit emit) {
			for _, reason := range probe.Reasons() {
				emit(float64(s.failures[reason]), string(reason))
			}
		})
	t.add(gauge, "pg_probe_consecutive_failures", "Failed probes since the last one that succeeded.", nil,
		func(s *Snapshot, emit emit) { emit(float64(s.consecutiveFailures)) })
	t.add(gauge, "pg_probe_last_success_timestamp_seconds", "When a probe last succeeded.", nil,
		func(s *Snapshot, emit emit) { emit.time(s.lastSuccess) })
	t.add(gauge, "pg_probe_phase_duration_seconds",
		"Duration of this probe's new session, phase by phase; a phase that was not reached is absent.", []string{"phase"},
		func(s *Snapshot, emit emit) {
			for _, phase := range probe.AllPhases() {
				emit.number(s.Result.Phases[phase], phase.String())
			}
		})
	t.add(gauge, "pg_probe_last_duration_seconds", "Duration of this probe as a whole.", nil,
		func(s *Snapshot, emit emit) { emit(s.Result.Duration.Seconds()) })
	t.add(gauge, "pg_probe_deadline_seconds", "Time this probe was given.", nil,
		func(s *Snapshot, emit emit) { emit(s.Result.Deadline.Seconds()) })
}

// sessions are the metrics of the kept session.
func (t *Table) sessions() {
	t.add(gauge, "pg_kept_session_up", "Whether the session that is kept between probes answered SELECT 1.", nil,
		func(s *Snapshot, emit emit) {
			if s.Result.Keeps {
				emit.bool(s.Result.KeptUp)
			}
		})
	t.add(counter, "pg_session_losses_total", "Kept sessions that were ended by the other side, by reason.", []string{"reason"},
		func(s *Snapshot, emit emit) {
			if !s.Result.Keeps {
				return
			}
			for _, reason := range probe.LossReasons() {
				emit(float64(s.losses[reason]), string(reason))
			}
		})
	t.add(gauge, "pg_session_last_loss_timestamp_seconds", "When a kept session was last ended by the other side.", nil,
		func(s *Snapshot, emit emit) { emit.time(s.lastLoss) })
}

// connections are the metrics of the connection slots.
func (t *Table) connections() {
	t.figure("pg_connections", "Client connections by database and state.", []string{"datname", "state"},
		func(f *probe.Figures, emit emit) {
			for _, c := range f.Connections {
				emit(float64(c.Count), c.Database, c.State)
			}
		})
	t.figure("pg_connections_used",
		"Client connection slots taken; an upper bound where the role does not see other roles' sessions.", nil,
		func(f *probe.Figures, emit emit) { emit(float64(f.Used)) })
	t.figure("pg_connections_usable", "Client connection slots that ordinary roles may use: max_connections less the reserved ones.", nil,
		func(f *probe.Figures, emit emit) { emit(float64(f.Usable)) })
	t.figure("pg_settings_max_connections", "Setting max_connections.", nil,
		func(f *probe.Figures, emit emit) { emit(float64(f.MaxConnections)) })
	t.figure("pg_settings_superuser_reserved_connections", "Setting superuser_reserved_connections.", nil,
		func(f *probe.Figures, emit emit) { emit(float64(f.SuperuserReservedConnections)) })
	t.figure("pg_settings_reserved_connections", "Setting reserved_connections (PostgreSQL 16 and later).", nil,
		func(f *probe.Figures, emit emit) { emit.number(f.ReservedConnections) })
	t.figure("pg_database_connection_limit", "Connection limit of a database that has one.", []string{"datname"},
		func(f *probe.Figures, emit emit) {
			for _, d := range f.DatabaseLimits {
				emit(float64(d.Limit), d.Database)
			}
		})
	t.figure("pg_role_connection_limit", "Connection limit of the role that probes, if it has one.", nil,
		func(f *probe.Figures, emit emit) { emit.number(f.RoleLimit) })
	t.figure("pg_connections_lock_waiting", "Client connections that wait for a lock.", nil,
		func(f *probe.Figures, emit emit) { emit.number(f.LockWaiting) })
	t.figure("pg_idle_in_transaction_max_seconds", "Longest time a client connection has been idle in transaction.", nil,
		func(f *probe.Figures, emit emit) { emit.number(f.IdleInTransactionMax) })
	t.figure("pg_transaction_max_seconds", "Age of the oldest transaction of a client connection.", nil,
		func(f *probe.Figures, emit emit) { emit.number(f.TransactionMax) })
	t.figure("pg_connections_by_application",
		"Client connections by application name: the largest 20 and the rest as other.", []string{"application_name"},
		func(f *probe.Figures, emit emit) {
			for _, a := range f.Applications {
				emit(float64(a.Count), a.Name)
			}
		})
	t.figure("pg_stats_privileged", "Whether the role sees other roles' sessions (pg_monitor, pg_read_all_stats).", nil,
		func(f *probe.Figures, emit emit) { emit.bool(f.Privileged) })
}

// server are the metrics of the server as such.
func (t *Table) server() {
	t.figure("pg_postmaster_start_time_seconds", "When the server was started.", nil,
		func(f *probe.Figures, emit emit) { emit.number(f.PostmasterStart) })
	t.figure("pg_checkpointer_start_time_seconds",
		"When the checkpointer was started: later than the server's start after a crash restart.", nil,
		func(f *probe.Figures, emit emit) { emit.number(f.CheckpointerStart) })
	t.figure("pg_server_info", "The server's version.", []string{"version", "version_num"},
		func(f *probe.Figures, emit emit) { emit(1, f.Version, f.VersionNum) })
}

const (
	connectName = "pg_connect_duration_seconds"
	connectHelp = "Duration of opening a new session, until the server is ready for a query."
	queryName   = "pg_query_duration_seconds"
	queryHelp   = "Duration of SELECT 1 on the kept session, or on the new one where none is kept."

	nativeFactor     = 1.1
	nativeMostBucket = 100
	nativeReset      = time.Hour
)

func newConnectHistogram() prometheus.Histogram {
	return newHistogram(connectName, connectHelp,
		.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10)
}

func newQueryHistogram() prometheus.Histogram {
	return newHistogram(queryName, queryHelp,
		.00005, .0001, .00025, .0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10)
}

// newHistogram has classic buckets and native ones: who scrapes decides which he gets.
func newHistogram(name, help string, buckets ...float64) prometheus.Histogram {
	return prometheus.NewHistogram(prometheus.HistogramOpts{
		Name: name, Help: help, Buckets: buckets,
		NativeHistogramBucketFactor:     nativeFactor,
		NativeHistogramMaxBucketNumber:  nativeMostBucket,
		NativeHistogramMinResetDuration: nativeReset,
	})
}

// View shows one snapshot. It is a prometheus.Collector that does no I/O.
type View struct {
	table    *Table
	snapshot Snapshot
}

// View returns what is shown of a snapshot.
func (t *Table) View(s Snapshot) *View { return &View{t, s} }

// Describe sends the descriptors of all rows.
func (v *View) Describe(ch chan<- *prometheus.Desc) {
	for i := range v.table.metrics {
		ch <- v.table.metrics[i].desc
	}
	ch <- v.table.connect
	ch <- v.table.query
}

// Collect sends the series of the snapshot.
func (v *View) Collect(ch chan<- prometheus.Metric) {
	for i := range v.table.metrics {
		m := &v.table.metrics[i]
		m.read(&v.snapshot, func(value float64, labels ...string) {
			ch <- prometheus.MustNewConstMetric(m.desc, m.kind, value, labels...)
		})
	}
	v.snapshot.connect.Collect(ch)
	v.snapshot.query.Collect(ch)
}
