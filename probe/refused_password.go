// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"io"
	"strings"
	"sync"
	"time"

	"pg_liveness_exporter/config"
)

const (
	// maxRefusals is how many times a server may refuse a password before it is held back.
	maxRefusals = 3
	// resendInterval is how often a password that is held back is sent.
	resendInterval = time.Minute
	// roleRoutine looks a role up once its password was accepted, and refuses one without LOGIN
	// (src/backend/utils/init/miscinit.c). Poolers do not pass the name of a routine on.
	roleRoutine = "InitializeSessionUserId"
)

// refusedPassword holds back a password that the server keeps refusing: some servers lock a role out after a number of
// failed logins. A login that holds it back goes as far as the server's request for a password and hangs up, so that a
// server that stops in the meantime is noticed. A different password is sent at once.
type refusedPassword struct {
	mu       sync.Mutex // protects what follows
	password config.Sealed
	refusals int
	sent     time.Time // when it was last sent
	err      error     // the server's last refusal
}

// holdsBack returns the server's last refusal if this login must not send the password, and nil if it may.
func (r *refusedPassword) holdsBack(password config.Secret) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := time.Now()
	if r.refusals < maxRefusals || password != r.password.Secret() {
		return nil
	}
	if now.Sub(r.sent) < resendInterval {
		return r.err
	}
	r.sent = now // now, so that of several logins at once only one sends it
	return nil
}

// record records that the server refused a password with err.
func (r *refusedPassword) record(password config.Secret, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if password != r.password.Secret() {
		r.password, r.refusals = config.Seal(password), 0
	}
	r.refusals++
	r.sent, r.err = time.Now(), err
}

// forget records that the server accepted a login.
func (r *refusedPassword) forget() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.password, r.refusals, r.err = config.Sealed{}, 0, nil
}

// passwordWriter is what a login writes to. It records in trace that a password was sent, in any form: a message of type 'p'
// (PasswordMessage, SASLInitialResponse and SASLResponse).
type passwordWriter struct {
	io.Writer

	trace *trace
}

func (w passwordWriter) Write(p []byte) (int, error) {
	if len(p) > 0 && p[0] == 'p' {
		w.trace.recordPassword()
	}
	return w.Writer.Write(p)
}

// allowsNoPassword reports whether a require_auth lets in a server that does not request a password: a list of what is
// allowed has "none", or a list of what is not allowed has no "!none".
func allowsNoPassword(requireAuth string) bool {
	isDenial := strings.HasPrefix(strings.TrimSpace(requireAuth), "!")
	return requireAuth == "" || strings.Contains(requireAuth, "none") != isDenial
}
