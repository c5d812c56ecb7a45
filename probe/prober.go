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

// keptGrace is how long a probe waits for the kept session after a new session has answered, or has not reached the server.
const keptGrace = time.Second

// Options configure a prober.
type Options struct {
	// Sessions counts connections. It must not be nil.
	Sessions *Sessions
	// OnSessionLost is called when the other side has ended a kept session and the reason is known. A goroutine of the
	// prober or the caller of Probe calls it.
	OnSessionLost func(Loss)
	// OnCommit is called with the result of each commit that has one. A goroutine of the prober calls it. It may be nil
	// if the target's commits are not probed.
	OnCommit func(*CommitResult)
	// Logger receives a debug message for each contained panic. If it is nil, nothing is logged.
	Logger *slog.Logger
	// Resolver looks up addresses. If it is nil, Go's own resolver is used, which stops when its context ends.
	Resolver resolver
}

// kind is what differs between kinds of servers. Each kind has a file of its own.
type kind interface {
	// ping checks that the server runs a query. Any goroutine may call it.
	ping(ctx context.Context, s *session) error
	// pingWithRole pings a new session and returns what its server is, nil if that is not known. Any goroutine may call it.
	pingWithRole(ctx context.Context, s *session) (*Role, error)
	// readStats reads the server's statistics. The session stays usable after an error that the server sent. Only one
	// goroutine at a time may call it, since the kind remembers values from one call to the next.
	readStats(ctx context.Context, s *session) (stats, error)
	// readStartTimes reads when the server's processes started, as far as the server reports it. Any goroutine may call
	// it.
	readStartTimes(ctx context.Context, s *session) startTimes
	// reset is called before a session is read for the first time. otherServer reports whether it may lead to another
	// server than the one before.
	reset(otherServer bool)
	// queryCount returns how many queries a session runs when it is pinged and its statistics are read for the first
	// time.
	queryCount() int
}

// newKind returns the kind of a target. It is the only place that lists all kinds.
func newKind(target *config.Target) kind {
	if target.Kind == config.KindPgBouncer {
		return pgbouncer{}
	}
	return &postgres{applications: target.Applications}
}

// stats holds the statistics of one kind of server. The other field is nil.
type stats struct {
	server *ServerStats
	pooler *PoolerStats
}

// Prober probes one server.
//
// It holds at most two open sessions: the kept one and that of the current probe. It holds one more while a commit is
// stuck, one while a lost session is opened again, one for each Query under way, and at most four logins that the server
// has not finished.
type Prober struct {
	target      *config.Target
	credentials Credentials
	options     Options
	kind        kind
	logins      loginQueue
	commits     committer

	refusals        refusals
	refusedPassword refusedPassword

	ctx    context.Context //nolint:containedctx // ends when the prober is closed
	cancel context.CancelFunc
	work   sync.WaitGroup // all goroutines and calls that Close waits for

	mu          sync.Mutex // protects what follows
	closed      bool
	kept        *kept
	released    *kept         // the last one that was released; it may still use kind until it has ended
	undecided   []*sessionEnd // the ends of kept sessions for which the next probe must find the reason
	otherServer bool          // the next kept session may lead to another server than the last one
	lastIdle    time.Duration // how long a session had been idle before its last end that nothing explains

	lastMisconfigured bool        // the last probe ended in StateMisconfigured; belongs to the current probe
	pooled            atomic.Bool // a pooler is between this prober and the server

	keeps atomic.Bool // SetKeep
	// stopKeeping is set if a new login succeeded only after the kept session had given way. From then on no session is
	// kept.
	stopKeeping atomic.Bool
}

// New returns a prober of target that logs in with credentials. It keeps no session until SetKeep is called. The caller
// must call Close when it no longer needs the prober.
func New(target *config.Target, credentials Credentials, options Options) *Prober {
	if options.Resolver == nil {
		options.Resolver = &net.Resolver{PreferGo: true}
	}
	if options.Logger == nil {
		options.Logger = slog.New(slog.DiscardHandler)
	}
	p := &Prober{target: target, credentials: credentials, options: options, kind: newKind(target)}
	p.ctx, p.cancel = context.WithCancel(context.Background())
	p.logins = loginQueue{
		limits: newLimits(), login: p.login, fetches: credentials.FetchesPassword, ctx: p.ctx, work: &p.work,
		ended: make(chan struct{}),
	}
	p.commits = committer{target: target, open: p.openForCommit, onCommit: options.OnCommit, ctx: p.ctx, work: &p.work}
	return p
}

// Close ends all sessions and logins under way, and waits until they have ended or ctx ends. It returns an error if ctx
// ends first.
func (p *Prober) Close(ctx context.Context) error {
	p.mu.Lock()
	p.closed = true
	p.mu.Unlock()
	p.cancel()
	return bounded.Wait(ctx, &p.work)
}

// SetKeep sets whether the prober keeps one session open, in addition to the new session of each probe. If keep is true, the
// next probe opens that session. If keep is false, SetKeep closes it without waiting for its end. Any goroutine may call it.
func (p *Prober) SetKeep(keep bool) {
	p.keeps.Store(keep)
	if !keep {
		p.releaseKept()
	}
}

// ForgetRefusals makes the next probe query the parts again that the server has refused. Any goroutine may call it.
func (p *Prober) ForgetRefusals() { p.refusals.forget(0) }

// Probe opens a session and pings the server on it (SELECT 1, or SHOW VERSION on a PgBouncer). At the same time it
// sends a request to the kept session. It returns within milliseconds after ctx ends, whatever the server does. The
// addresses of a host name share the time until ctx's deadline. Only one call at a time is allowed.
//
// If the target's commits are probed, a commit starts after the verdict and continues in the background: Result.Commit.
func (p *Prober) Probe(ctx context.Context) *Result {
	r := &Result{Start: time.Now(), Keep: p.keeps.Load()}
	if deadline, ok := ctx.Deadline(); ok {
		r.Deadline = deadline.Sub(r.Start).Round(time.Millisecond)
	}
	k, ok := p.beginWork()
	if !ok {
		return Unanswered(r.Start, 0, r.Keep)
	}
	defer p.work.Done()
	ends := p.takeUndecided()
	s, hung := p.ask(ctx, r, k)
	p.explain(r, k)
	if s == nil && r.KeptUp {
		s = p.giveWay(ctx, r, k)
	}
	spare := p.keepOrRead(ctx, r, k, s)
	r.KeptUp = r.KeptUp && !hung
	for _, end := range ends {
		p.decide(end, r)
	}
	p.lastMisconfigured = r.Failure != nil && r.Failure.State == StateMisconfigured
	p.pooled.Store(r.pooled() || p.pooled.Load() && r.ServerStats == nil)
	r.Refusals = p.refusals.list()
	r.Duration = time.Since(r.Start)
	switch {
	case !p.target.Commit:
	case r.Up():
		r.Commit, spare = p.commits.start(spare, r)
	default:
		r.Commit = p.commits.current.Load()
	}
	if spare != nil {
		p.closeInBackground(spare)
	}
	return r
}

// ask opens and pings a new session, and at the same time sends a request to the kept session k, which is nil if none is
// kept. It returns the new session as openAndPing does, and reports whether k hangs.
func (p *Prober) ask(ctx context.Context, r *Result, k *kept) (s *session, hung bool) {
	if k == nil {
		return p.openAndPing(ctx, r, nil), false
	}
	replies := k.send(ctx)
	watch := p.watchLogin(ctx, k)
	s = p.openAndPing(ctx, r, watch)
	watch.end(s != nil)
	return s, p.awaitKept(ctx, r, k, replies, s != nil)
}

// keepOrRead keeps the new session s of this probe if it should, or reads the statistics on it if no session is kept. It
// returns s unless it is kept. s is nil if there is none.
func (p *Prober) keepOrRead(ctx context.Context, r *Result, k *kept, s *session) (spare *session) {
	switch {
	case s == nil:
		return nil
	case p.mayKeep(s):
		if p.keepNew(ctx, r, k, s) {
			return nil
		}
		return s
	}
	r.Query = r.Phases[PhaseQuery]
	if p.hasEnded() {
		r.setStats(p.readStatsOnce(ctx, s))
	}
	return s
}

// awaitKept copies the reply of the kept session k into the result, and reports whether k hangs. If a new session has
// answered, awaitKept waits only for keptGrace, or for ten times as long as that answer took, and then releases k: a
// verdict must not wait for a session that may lead to a server that is gone. If no new session reached the server, it waits
// for keptGrace too.
func (p *Prober) awaitKept(ctx context.Context, r *Result, k *kept, replies <-chan reply, answered bool) (hung bool) {
	wait := ctx
	if answered || r.Failure.State == StateNoResponse {
		var cancel context.CancelFunc
		wait, cancel = context.WithTimeout(ctx, max(keptGrace, 10*r.Phases[PhaseQuery].Value))
		defer cancel()
	}
	rep := k.wait(wait, replies)
	r.setStats(rep)
	if !answered || rep.up || rep.failure != nil || k.ctx.Err() != nil {
		return false
	}
	p.releaseAndWait(k)
	return true
}

// pooled reports whether the statistics came from a pooler or through one.
func (r *Result) pooled() bool {
	return r.PoolerStats != nil || r.ServerStats != nil && r.ServerStats.Pooled
}

// isOtherServer reports whether the statistics are those of another server than the new session s has reached. A proxy, a
// virtual IP or a name with several addresses may lead new sessions elsewhere. If a proxy or a pooler is between and the
// server hides when it started, they may be.
func (r *Result) isOtherServer(s *session) bool {
	if r.ServerStats == nil {
		return false
	}
	if version := s.conn.ParameterStatus("server_version"); !r.ServerStats.Pooled && version != "" && version != r.ServerStats.Version {
		return true
	}
	before, now := r.ServerStats.PostmasterStart, s.postmasterStart
	if !before.Known || !now.Known {
		if s.isRelayed() {
			return true
		}
	} else if before != now {
		return true
	}
	role := r.ServerStats.Role
	return role != nil && r.Role != nil && role.Replica != r.Role.Replica
}

// keepNew keeps the new session s if no session is kept, or if the kept session k may be outdated: new sessions reach
// another server, the last probe was refused and the role may have been created again since, or k refuses SELECT 1. It
// then reads the statistics on the kept session, if k has not. It reports whether s is kept.
func (p *Prober) keepNew(ctx context.Context, r *Result, k *kept, s *session) bool {
	switch {
	case k == nil:
	case r.KeptUp && (p.lastMisconfigured || k.address() != s.address() || r.isOtherServer(s)), !r.KeptUp && r.StatsFailure != nil:
		p.exchange(r, k)
	}
	for {
		// It differs from k if a lost session was opened again meanwhile.
		current, isNew := p.keep(s, startTimes{})
		if current == nil || current == k {
			return false
		}
		// A request that exceeds the deadline would close the session. If too little time is left, the next probe sends it.
		needed := time.Duration(p.kind.queryCount()) * r.Phases[PhaseQuery].Value
		if needed < r.Deadline-time.Since(r.Start) {
			r.setStats(current.wait(ctx, current.send(ctx)))
		}
		if isNew || !r.isOtherServer(s) {
			return isNew
		}
		p.exchange(r, current)
		k = current
	}
}

// exchange releases the kept session k and removes its reply from the result: it may be another server's. What that server
// refused is forgotten.
func (p *Prober) exchange(r *Result, k *kept) {
	p.releaseAndWait(k)
	p.mu.Lock()
	p.otherServer = true
	p.mu.Unlock()
	p.refusals.forget(minRefusalTime) // a name may lead to several servers by turns
	r.Query = Duration{}
	r.setStats(reply{})
}

// beginWork counts the caller in p.work and returns the kept session, nil if there is none. It returns false if the
// prober is closed. If it returns true, the caller must call p.work.Done.
func (p *Prober) beginWork() (*kept, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return nil, false
	}
	p.work.Add(1)
	return p.kept, true
}

// closeInBackground closes a session without making the caller wait.
func (p *Prober) closeInBackground(s *session) { p.work.Go(func() { s.close(p.ctx) }) }

// setStats copies a reply of the kept session, or of the new session if none is kept, into the result.
func (r *Result) setStats(rep reply) {
	r.ServerStats, r.PoolerStats, r.StatsFailure = rep.server, rep.pooler, rep.failure
	if r.Keep {
		r.KeptUp = rep.up
		if rep.up {
			r.Query = knownDuration(rep.query)
		}
	}
}

// openAndPing opens a session and pings the server on it. It returns the session if that succeeded. Otherwise it sets
// r.Failure and returns nil.
//
// It tries twice if the server ended the session: an administrator may have terminated it by chance, and if not, the
// second attempt finds the reason. It also tries twice if a password was refused and a different one may be available
// by now.
//
// If the second attempt runs out of time, the first one's finding stands. watch follows the attempts.
func (p *Prober) openAndPing(ctx context.Context, r *Result, watch *loginWatch) *session {
	var first *Failure
	for attempt := 1; ; attempt++ {
		s, loginErr := p.attempt(ctx, r, watch)
		if s != nil {
			return s
		}
		if attempt == 2 && loginErr != nil && loginErr.endedAfterCertificate {
			// With TLS 1.3 a server rejects a client certificate only after the handshake, and closing the connection
			// may overtake the alert (RFC 8446, section 6.2). A single occurrence may be a coincidence.
			r.Failure = classify(&tlsError{errNotAccepted}, r.Failure.Phase)
		}
		if first != nil && r.ranOutOfTime() {
			r.Failure = first
			return nil
		}
		if attempt == 2 || ctx.Err() != nil || !p.shouldRetry(r.Failure, loginErr) {
			return nil
		}
		first, r.Connect = r.Failure, Duration{}
	}
}

// attempt is one attempt of openAndPing. If it fails, it sets r.Failure and returns the error of the login, nil if that
// succeeded or is still under way.
func (p *Prober) attempt(ctx context.Context, r *Result, watch *loginWatch) (*session, *loginError) {
	t := &trace{}
	watch.follow(t)
	s, err := p.logins.open(ctx, t, false)
	if err == nil {
		phases, _ := t.read()
		r.Connect = phases.connect()
		t.enter(PhaseQuery)
		s.pooled = p.pooled.Load()
		if err = p.pingNew(ctx, s); err == nil {
			t.done()
			p.refineRole(ctx, s)
			r.Phases, _ = t.read()
			r.TLS = t.tlsInfo()
			r.Failure = nil
			r.Role, r.postmasterStart = s.role, s.postmasterStart
			r.Superuser = p.target.Kind != config.KindPgBouncer && s.conn.ParameterStatus("is_superuser") == "on"
			return s, nil
		}
		err = s.explainBySettings(err)
		p.closeInBackground(s)
	}
	var phase Phase
	r.Phases, phase = t.read()
	r.TLS, r.address = t.tlsInfo(), t.peer()
	var loginErr *loginError
	if errors.As(err, &loginErr) {
		phase = loginErr.phase
	}
	r.Failure = classify(err, phase)
	if p.pooled.Load() && p.target.Kind != config.KindPgBouncer && phase == PhaseQuery && r.Failure.Reason == ReasonTimeout {
		// The pooler accepted the login but has no server: it is paused, or all servers are in use or hang.
		r.Failure.Reason = ReasonPooler
	}
	return nil, loginErr
}

// openForCommit opens a session for a commit.
func (p *Prober) openForCommit(ctx context.Context) (*session, error) {
	return p.logins.open(ctx, &trace{}, false)
}

// shouldRetry reports whether a failure is worth a second attempt. loginErr may be nil.
func (p *Prober) shouldRetry(f *Failure, loginErr *loginError) bool {
	return f.Reason == ReasonTerminated ||
		f.Reason == ReasonAuth && loginErr != nil && (f.SQLState != "" || hasRefusedToken(loginErr)) && p.credentials.PasswordRefused(loginErr.password.Secret())
}

// pingNew pings the server on a new session.
func (p *Prober) pingNew(ctx context.Context, s *session) error {
	return s.guard(func() error {
		var err error
		s.role, err = p.kind.pingWithRole(ctx, s)
		return err
	})
}

// refineRole finds out whether the server is read-only for others too. Its time is not part of the ping's.
func (p *Prober) refineRole(ctx context.Context, s *session) {
	if s.role != nil && s.role.ReadOnly && !s.role.Replica {
		_ = s.guard(func() error { // an error leaves the role as it is
			s.role.ReadOnly = !isOwnSetting(ctx, s)
			return nil
		})
	}
}

// readStatsOnce reads the statistics on a session that is not kept.
func (p *Prober) readStatsOnce(ctx context.Context, s *session) reply {
	var rep reply
	p.kind.reset(false) // a host name may lead to several servers
	if err := rep.readStats(ctx, s, p.kind); err != nil {
		rep.failure = classify(err, PhaseQuery)
	}
	return rep
}

// keep makes s the kept session if there is none. It returns the kept session, and whether that is s. It returns nil if
// the prober is closed, s must not be kept, or the session that was kept before has not ended yet. started are the start
// times that s has read.
func (p *Prober) keep(s *session, started startTimes) (current *kept, isNew bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case p.closed || s.conn.IsClosed() || !p.mayKeep(s):
		return nil, false
	case p.kept != nil:
		return p.kept, false
	case p.released != nil && !p.released.hasEnded():
		return nil, false
	}
	k := newKept(p.ctx, s, started)
	p.kept = k
	p.kind.reset(p.otherServer)
	p.otherServer = false
	p.work.Go(func() { p.runKept(k) })
	return k, true
}

// release ends the kept session k. The next new session is kept if mayKeep allows it.
func (p *Prober) release(k *kept) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.kept == k {
		p.kept, p.released = nil, k
	}
	k.cancel()
}

// releaseAndWait ends the kept session k, and waits until its goroutine has stopped using it, for closeGrace at most.
func (p *Prober) releaseAndWait(k *kept) {
	p.release(k)
	timer := time.NewTimer(closeGrace)
	defer timer.Stop()
	select {
	case <-k.ended:
	case <-timer.C:
	}
}

// hasEnded reports whether the last session that was released has ended, so that no goroutine uses kind.
func (p *Prober) hasEnded() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.released == nil || p.released.hasEnded()
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
	// It is not a loss if this side closed the session because the server was late or sent an invalid message. A pooler
	// does not say why it ends a session.
	if k.conn.IsClosed() && k.ctx.Err() == nil && !overrun && !k.abortedByUs() && !k.pooled {
		k.loss = k.end(at)
	}
	close(k.ended)
	p.release(k)
	p.closeInBackground(k.session)
	if k.loss != nil {
		p.lose(k.loss)
	}
}
