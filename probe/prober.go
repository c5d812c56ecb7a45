// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"pg_liveness_exporter/config"
	"pg_liveness_exporter/internal/bounded"
)

const (
	// maxReopen and reopenInterval bound the tries to open a lost session anew.
	maxReopen      = time.Second
	reopenInterval = 50 * time.Millisecond
)

// Options say how a prober asks.
type Options struct {
	// Keep opens a session that stays, beside the new one of each probe.
	Keep bool
	// Sessions counts connections; it must not be nil.
	Sessions *Sessions
	// OnSessionLost is told when and why a kept session was ended by the other side, from a goroutine of the prober's.
	OnSessionLost func(LossReason, time.Time)
	// OnCommit is told what became of a commit, from a goroutine of the prober's. It may be nil where there are none.
	OnCommit func(*CommitResult)
	// Logger gets a line at debug for each panic that was contained; nil means none.
	Logger *slog.Logger
	// Resolver finds addresses; nil means Go's own resolver, which gives up when it is told to.
	Resolver resolver
}

// kind is what differs between kinds of servers: how one is asked whether it is alive, and what it says of itself. Each
// is a file of its own.
type kind interface {
	// ping asks the question of all questions; any goroutine may.
	ping(ctx context.Context, s *session) error
	// readStats reads what the server says of itself. The session stays usable after an error of the server's. What is
	// remembered from one reading to the next belongs to the one goroutine that reads.
	readStats(ctx context.Context, s *session) (stats, error)
	// readStartTimes reads when the server's processes began, as far as it tells; any goroutine may.
	readStartTimes(ctx context.Context, s *session) startTimes
	// reset says that the next session that is read may lead to another server.
	reset()
	// queryCount is how many queries a session runs when its statistics are read for the first time.
	queryCount() int
}

// newKind is the one place that knows all kinds.
func newKind(target *config.Target) kind {
	if target.Kind == config.KindPgBouncer {
		return pgbouncer{}
	}
	return &postgres{sql: statsSQL(target.Applications)}
}

// stats is what a server says of itself: one of these.
type stats struct {
	server *ServerStats
	pooler *PoolerStats
}

// Prober asks one server.
//
// It holds at most two open sessions, the kept one and that of the probe under way, one more while a commit is stuck, one
// for each Query under way, and at most four logins that the server has not finished.
type Prober struct {
	target      *config.Target
	credentials Credentials
	options     Options
	limits      limits
	kind        kind
	commits     commits

	ctx    context.Context //nolint:containedctx // the prober's life
	cancel context.CancelFunc
	work   sync.WaitGroup // logins, kept sessions, closing

	mu         sync.Mutex // protects what follows
	closed     bool
	kept       *kept
	pending    []*pendingLogin // logins under way, the youngest last
	loginEnded chan struct{}   // closed, and replaced, when one of them ends

	lastMisconfigured bool        // the last probe was refused for what we are; belongs to the probe under way
	pooled            atomic.Bool // the sessions are a pooler's

	// stopKeeping says that a kept session took the server that a pooler had for a new one. From then on none is kept.
	stopKeeping atomic.Bool
}

// New returns a prober of target, which logs in with credentials. The caller must call Close when it does not need the
// prober any more.
func New(target *config.Target, credentials Credentials, options Options) *Prober {
	if options.Resolver == nil {
		options.Resolver = &net.Resolver{PreferGo: true}
	}
	if options.Logger == nil {
		options.Logger = slog.New(slog.DiscardHandler)
	}
	p := &Prober{
		target: target, credentials: credentials, options: options, kind: newKind(target),
		limits: limits{maxPending: time.Minute, minAge: 15 * time.Second, maxLogins: 4}, loginEnded: make(chan struct{}),
	}
	p.ctx, p.cancel = context.WithCancel(context.Background())
	return p
}

// Close ends every session and every login under way and waits for that, until ctx ends.
func (p *Prober) Close(ctx context.Context) error {
	p.mu.Lock()
	p.closed = true
	p.mu.Unlock()
	p.cancel()
	return bounded.Wait(ctx, &p.work)
}

// Probe opens a session and asks on it whether the server is alive (SELECT 1; SHOW VERSION of a PgBouncer) and, at the same
// time, asks the kept session. It returns within milliseconds of the end of ctx, whatever the server does; ctx's deadline is
// also what addresses share. One probe at a time.
//
// Where the target's commits are probed, one begins with the verdict and goes on: Result.Commit.
func (p *Prober) Probe(ctx context.Context) *Result {
	r := &Result{Start: time.Now(), Keep: p.options.Keep}
	if deadline, ok := ctx.Deadline(); ok {
		r.Deadline = deadline.Sub(r.Start).Round(time.Millisecond)
	}
	k, ok := p.beginWork()
	if !ok {
		return Unanswered(r.Start, 0, r.Keep)
	}
	defer p.work.Done()
	var replies <-chan reply
	if k != nil {
		replies = k.send(ctx)
	}
	s := p.openAndPing(ctx, r, k)
	if k != nil {
		r.setStats(k.wait(ctx, replies))
		if r.KeptUp && r.mayBlockShutdown() {
			p.release(k)
		}
	}
	switch {
	case s == nil:
	case !p.options.Keep, p.stopKeeping.Load():
		r.Query = r.Phases[PhaseQuery]
		r.setStats(p.readStatsOnce(ctx, s))
	case p.keepNew(ctx, r, k, s):
		s = nil
	case r.ServerStats != nil && !r.ServerStats.Pooled: // they are the kept session's, which may be older than a default
		if readOnly, ok := s.readOnlyByDefault(ctx); ok {
			r.ServerStats.ReadOnly = r.ServerStats.Replica || readOnly
		}
	}
	p.lastMisconfigured = r.Failure != nil && r.Failure.State == StateMisconfigured
	p.pooled.Store(r.pooled() || p.pooled.Load() && r.ServerStats == nil)
	r.Duration = time.Since(r.Start)
	switch {
	case p.target.Commit && r.Up():
		r.Commit = p.commit(s, r)
	case s != nil:
		p.closeInBackground(s)
	default:
		r.Commit = p.commits.current.Load()
	}
	return r
}

func (r *Result) pooled() bool {
	return r.PoolerStats != nil || r.ServerStats != nil && r.ServerStats.Pooled
}

// mayBlockShutdown says whether the server may be waiting for our session to end: one that answers while new ones are refused
// stands in the way of a smart shutdown, and of PgBouncer's, which closes its port (SIGTERM from 1.23 on).
func (r *Result) mayBlockShutdown() bool {
	return r.Failure != nil && (r.Failure.Reason == ReasonNotAccepting || r.Failure.Reason == ReasonRefused && r.pooled())
}

// keepNew keeps the new session s where none stands, or where the one that stands, k, may have become another one: the
// name leads elsewhere by now, or the role was made anew since the last probe was refused. It reports whether s is kept.
func (p *Prober) keepNew(ctx context.Context, r *Result, k *kept, s *session) bool {
	if k != nil && r.KeptUp && (p.lastMisconfigured || k.address() != s.address()) {
		p.release(k)
	}
	if k = p.keep(s); k == nil {
		return false
	}
	// A session that is asked and overruns is lost. Where too little time is left, it is asked in the next probe.
	needed := time.Duration(float64(p.kind.queryCount()) * r.Phases[PhaseQuery].Value * float64(time.Second))
	if needed < r.Deadline-time.Since(r.Start) {
		r.setStats(k.wait(ctx, k.send(ctx)))
	}
	return true
}

// beginWork counts a probe as work and returns the kept session, if one stands. It reports false once the prober is closed.
func (p *Prober) beginWork() (*kept, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return nil, false
	}
	p.work.Add(1)
	return p.kept, true
}

// closeInBackground closes a session behind the caller's back.
func (p *Prober) closeInBackground(s *session) { p.work.Go(func() { s.close(p.ctx) }) }

func (r *Result) setStats(rep reply) {
	r.ServerStats, r.PoolerStats, r.StatsFailure = rep.server, rep.pooler, rep.failure
	if r.Keep {
		r.KeptUp = rep.up
		if rep.up {
			r.Query = knownDuration(rep.query)
		}
	}
}

// openAndPing opens a session and asks the question on it. It returns the session when that succeeded, and else says in r why
// not. A session that is ended while it is being opened or asked is tried once more: it may be our bad luck with an
// administrator's terminate, and if it is not, the second try says what is. So is a password that was refused, where
// there is another one by now.
func (p *Prober) openAndPing(ctx context.Context, r *Result, k *kept) *session {
	for attempt := 1; ; attempt++ {
		t := &trace{}
		s, err := p.open(ctx, t, false)
		if err == nil {
			phases, _ := t.read()
			var connect float64
			for _, phase := range AllPhases() {
				connect += phases[phase].Value
			}
			r.Connect = known(connect)
			t.enter(PhaseQuery)
			s.pooled = p.pooled.Load()
			if err = p.pingNew(ctx, s, k); err == nil {
				t.done()
				r.Phases, _ = t.read()
				r.TLS = t.tlsInfo()
				r.Failure = nil
				r.Superuser = p.target.Kind != config.KindPgBouncer && s.conn.ParameterStatus("is_superuser") == "on"
				return s
			}
			p.closeInBackground(s)
		}
		var phase Phase
		r.Phases, phase = t.read()
		r.TLS = t.tlsInfo()
		var loginErr *loginError
		if errors.As(err, &loginErr) {
			phase = loginErr.phase
		}
		r.Failure = classify(err, phase)
		if p.pooled.Load() && p.target.Kind != config.KindPgBouncer && phase == PhaseQuery && r.Failure.Reason == ReasonTimeout {
			r.Failure.Reason = ReasonPooler // it let us in, and has no server for us: paused, or all are taken or hang
		}
		if attempt == 2 && loginErr != nil && loginErr.endedAfterCertificate {
			// With TLS 1.3 a server says only now that it does not accept a certificate, and its end of the connection
			// may overtake the alert (RFC 8446, section 6.2). Once may be bad luck.
			r.Failure = classify(&tlsError{errNotAccepted}, phase)
		}
		if attempt == 2 || ctx.Err() != nil || !p.shouldRetry(r.Failure, loginErr) {
			return nil
		}
		r.Connect = Number{}
	}
}

// shouldRetry says whether a failure is worth a second try. loginErr may be nil.
func (p *Prober) shouldRetry(f *Failure, loginErr *loginError) bool {
	return f.Reason == ReasonTerminated ||
		f.Reason == ReasonAuth && f.SQLState != "" && loginErr != nil && p.credentials.PasswordRefused(loginErr.password)
}

// pingNew asks the question on a new session.
func (p *Prober) pingNew(ctx context.Context, s *session, k *kept) error {
	defer p.releaseIfStarved(ctx, k)()
	return s.guard(func() error { return p.kind.ping(ctx, s) })
}

// releaseIfStarved has the kept session give way, unless what it returns is called in time: in session mode it holds a server of the
// pool, and there may be none left for a new one. k is nil where none is kept.
func (p *Prober) releaseIfStarved(ctx context.Context, k *kept) (stop func()) {
	deadline, ok := ctx.Deadline()
	if k == nil || !p.pooled.Load() || !ok {
		return func() {}
	}
	timer := time.AfterFunc(time.Until(deadline)/2, func() {
		if k.listening.Load() { // it was answered, so that there is a server, and we have it
			p.stopKeeping.Store(true)
			p.release(k)
		}
	})
	return func() { timer.Stop() }
}

// readStatsOnce reads on a session that is not kept.
func (p *Prober) readStatsOnce(ctx context.Context, s *session) reply {
	var rep reply
	p.kind.reset() // behind a name with several servers, it may have been another one
	if err := rep.readStats(ctx, s, p.kind); err != nil {
		rep.failure = classify(err, PhaseQuery)
	}
	return rep
}

// keep makes s the kept session, and returns nil where there is one by now.
func (p *Prober) keep(s *session) *kept {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.kept != nil || p.closed {
		return nil
	}
	k := newKept(p.ctx, s)
	p.kept = k
	p.kind.reset()
	p.work.Go(func() { p.runKept(k) })
	return k
}

// release lets the kept session go; the next new one is kept.
func (p *Prober) release(k *kept) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.kept == k {
		p.kept = nil
	}
	k.cancel()
}

// runKept is the kept session's goroutine.
func (p *Prober) runKept(k *kept) {
	overrun := false
	for !k.conn.IsClosed() && k.ctx.Err() == nil {
		overrun = false
		if req := k.listen(); req != nil {
			overrun = k.handle(req, p.kind)
		}
	}
	at := time.Now()
	// Dropping a session that does not answer, or that sends what no server sends, is no loss.
	lost := k.conn.IsClosed() && k.ctx.Err() == nil && !overrun && !k.abortedByUs()
	p.release(k)
	p.closeInBackground(k.session)
	if !lost || k.pooled {
		return
	}
	reason, ok := k.loss().reasonFromEnd()
	if !ok {
		reason = p.reopen(k)
	}
	if p.ctx.Err() == nil {
		p.options.OnSessionLost(reason, at)
	}
}

// reopen opens a lost session anew, at once, to learn why it was lost, and keeps the new one.
func (p *Prober) reopen(k *kept) LossReason {
	ctx, cancel := context.WithTimeout(p.ctx, maxReopen)
	defer cancel()
	for {
		s, err := p.open(ctx, &trace{}, false)
		var after startTimes
		if err == nil {
			_ = s.guard(func() error {
				after = p.kind.readStartTimes(ctx, s)
				return nil
			})
			if p.keep(s) == nil {
				p.closeInBackground(s)
			}
		}
		reason, decided := k.loss().reasonFromLogin(k.started, after, err)
		if decided {
			return reason
		}
		select {
		case <-time.After(reopenInterval):
		case <-ctx.Done():
			return reason
		}
	}
}
