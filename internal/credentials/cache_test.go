// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package credentials

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"pg_liveness_exporter/config"
	"pg_liveness_exporter/internal/credentials/cloud"
)

// fakeProvider gives numbered tokens.
type fakeProvider struct {
	mu              sync.Mutex // protects what follows
	lifetime, takes time.Duration
	err             error
	fetches         []time.Time
	asked           []config.CloudAuth
	expires         map[config.Secret]time.Time
}

// set changes what becomes of the next fetches.
func (p *fakeProvider) set(err error, takes time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.err, p.takes = err, takes
}

// left returns for how long a token is valid.
func (p *fakeProvider) left(token config.Secret) time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	return time.Until(p.expires[token])
}

func (p *fakeProvider) Fetch(_ context.Context, identity *config.CloudAuth) (*cloud.Grant, error) {
	p.mu.Lock()
	p.fetches = append(p.fetches, time.Now())
	p.asked = append(p.asked, *identity)
	n, takes, err := len(p.fetches), p.takes, p.err
	p.mu.Unlock()
	time.Sleep(takes)
	if err != nil {
		return nil, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	token := config.Secret(fmt.Sprintf("token-%d", n))
	if p.expires == nil {
		p.expires = make(map[config.Secret]time.Time)
	}
	p.expires[token] = time.Now().Add(p.lifetime)
	return cloud.Fixed(token, p.expires[token]), nil
}

func (p *fakeProvider) count() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.fetches)
}

// sourcesFor returns sources of the targets of a file, by name, and the provider that they ask.
func sourcesFor(t *testing.T, text string, provider *fakeProvider) map[string]*Source {
	t.Helper()
	store := NewStore(t.Context())
	store.providers = provider
	sources := make(map[string]*Source)
	for _, target := range parseFile(t, text).Targets {
		sources[target.Name] = store.For(target)
	}
	return sources
}

const oneCloudTarget = "targets: {a: {host: h, user: u, cloud_auth: gcp, sslmode: verify-full}}"

// passwordOf returns the password of a login, which may wait for a second.
func passwordOf(t *testing.T, s *Source) (config.Secret, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	cfg, err := s.ConnConfig(ctx)
	if err != nil {
		return "", err
	}
	return config.Secret(cfg.Password), nil
}

// TestTokenExpires: for three hours of logins, each gets a token that is valid, at once, and the provider is asked only when a token
// ends. That it fails for a moment changes nothing.
func TestTokenExpires(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := &fakeProvider{lifetime: 20 * time.Minute, takes: 300 * time.Millisecond}
		s := sourcesFor(t, oneCloudTarget, p)["a"]
		for second := range 3 * 60 * 60 {
			began := time.Now()
			var away error
			if second%1200 > 900 && second%60 < 45 { // most of the time when a token ends
				away = errors.New("away")
			}
			p.set(away, 300*time.Millisecond)
			password, err := passwordOf(t, s)
			if err != nil {
				t.Fatalf("after %d s: %v", second, err)
			}
			if left := p.left(password); left <= 0 {
				t.Fatalf("after %d s: the token ended %s ago", second, -left)
			}
			if took := time.Since(began); took > 0 && second > 0 {
				t.Fatalf("after %d s: it took %s", second, took)
			}
			time.Sleep(time.Second)
		}
		if n := p.count(); n < 9 || n > 9*6 {
			t.Errorf("%d fetches in three hours", n)
		}
		for i := 1; i < len(p.fetches); i++ {
			if between := p.fetches[i].Sub(p.fetches[i-1]); between < fetchInterval {
				t.Errorf("two fetches within %s", between)
			}
		}
	})
}

// TestTokenMissing: a provider that fails is asked every 10 s and not more often, however many logins there are. The error is
// there at once and within the deadline.
func TestTokenMissing(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := &fakeProvider{lifetime: time.Hour, err: errors.New("no AWS credentials found")}
		sources := sourcesFor(t, `
defaults: {user: u, sslmode: verify-full}
modules: {m: {cloud_auth: {provider: aws, region: eu-west-1}}}
targets: {a: {host: h, module: m}, b: {host: h2, module: m}}`, p)
		for range 600 {
			for name, s := range sources {
				if _, err := passwordOf(t, s); err == nil || err.Error() != "cloud_auth: no AWS credentials found" {
					t.Fatalf("%s: %v", name, err)
				}
			}
			time.Sleep(100 * time.Millisecond)
		}
		if n := p.count(); n != 6 {
			t.Errorf("%d fetches in a minute, want 6", n)
		}
		p.set(nil, 0)
		time.Sleep(fetchInterval)
		if got, err := passwordOf(t, sources["a"]); got != "token-7" {
			t.Errorf("got %q and %v once the provider is there", string(got), err)
		}

		p.set(nil, time.Hour) // it hangs
		time.Sleep(time.Hour)
		if _, err := passwordOf(t, sources["a"]); err == nil || err.Error() != "cloud_auth: the identity service has not answered yet" {
			t.Errorf("a provider that hangs: %v", err)
		}
		time.Sleep(2 * time.Hour)
	})
}

// TestTokenSlow: a provider that fails later than a probe ends is named in the error of the next probe, which does not wait for
// it to fail again.
func TestTokenSlow(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := &fakeProvider{lifetime: time.Hour, takes: 8 * time.Second, err: errors.New("no Google credentials found")}
		s := sourcesFor(t, oneCloudTarget, p)["a"]
		login := func() (time.Duration, error) {
			began := time.Now()
			ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
			defer cancel()
			_, err := s.ConnConfig(ctx)
			return time.Since(began), err
		}
		if _, err := login(); err == nil || err.Error() != "cloud_auth: the identity service has not answered yet" {
			t.Errorf("the first login: %v", err)
		}
		for range 10 {
			time.Sleep(15 * time.Second)
			if took, err := login(); took > failedPatience || err == nil || err.Error() != "cloud_auth: no Google credentials found" {
				t.Errorf("after %s: %v", took, err)
			}
		}
		p.set(nil, 3*time.Second) // longer than the next login waits for it
		time.Sleep(15 * time.Second)
		_, _ = login()
		time.Sleep(5 * time.Second)
		if took, err := login(); took > 0 || err != nil {
			t.Errorf("once the provider is there, after %s: %v", took, err)
		}
		time.Sleep(2 * time.Hour)
	})
}

// TestTokenRefused: a token that the server refuses is fetched anew, at once and then each minute.
func TestTokenRefused(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := &fakeProvider{lifetime: time.Hour}
		s := sourcesFor(t, oneCloudTarget, p)["a"]
		expect := func(want config.Secret) {
			t.Helper()
			if got, err := passwordOf(t, s); got != want {
				t.Errorf("got %q and %v, want %q", string(got), err, string(want))
			}
		}
		expect("token-1")
		if s.PasswordRefused("token-1") {
			t.Error("a token from just now is fetched again")
		}
		expect("token-1")
		time.Sleep(fetchInterval + time.Second)
		if !s.PasswordRefused("token-1") {
			t.Error("a token from before is not fetched again")
		}
		expect("token-2")
		for range 59 {
			if s.PasswordRefused("token-2") {
				t.Fatal("fetched again within a minute")
			}
			expect("token-2")
			time.Sleep(time.Second)
		}
		time.Sleep(2 * time.Second)
		if !s.PasswordRefused("token-2") {
			t.Error("not fetched again after a minute")
		}
		expect("token-3")
		s.Accepted()
		expect("token-3")
	})
}

// TestTokenShared: targets with the same identity share one fetch. Those with another one have their own.
func TestTokenShared(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := &fakeProvider{lifetime: time.Hour, takes: 100 * time.Millisecond}
		sources := sourcesFor(t, `
defaults: {user: u, sslmode: verify-full, cloud_auth: aws}
targets:
  a: {host: a.x.eu-west-1.rds.amazonaws.com}
  b: {host: b.x.eu-west-1.rds.amazonaws.com, user: v}
  other-region: {host: b.x.eu-west-2.rds.amazonaws.com}
  other-role: {host: a.x.eu-west-1.rds.amazonaws.com, cloud_auth: {provider: aws, role_arn: "arn:aws:iam::1:role/r"}}
  other-cloud: {host: h, cloud_auth: azure}
`, p)
		var logins sync.WaitGroup
		for _, s := range sources {
			for range 10 {
				logins.Go(func() {
					if _, err := passwordOf(t, s); err != nil {
						t.Error(err)
					}
				})
			}
		}
		logins.Wait()
		if n := p.count(); n != 4 {
			t.Errorf("%d fetches, want 4: %v", n, p.asked)
		}
	})
}

// TestShortToken: a token that ends before the provider may be asked again is an error in between.
func TestShortToken(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := sourcesFor(t, oneCloudTarget, &fakeProvider{lifetime: 3 * time.Second})["a"]
		for second := range 20 {
			_, err := passwordOf(t, s)
			if gone := second%10 >= 3; gone != errors.Is(err, errExpired) || !gone && err != nil {
				t.Errorf("after %d s: %v", second, err)
			}
			time.Sleep(time.Second)
		}
	})
}

// TestShortTTL: a command whose TTL is short runs as often as that.
func TestShortTTL(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c, runs := newCache(), 0
		f := &fetcher{key: "k", ttl: 2 * time.Second, notYet: errExpired, fetch: func() (*cloud.Grant, error) {
			runs++
			return cloud.Fixed(config.Secret(fmt.Sprint(runs)), time.Time{}), nil
		}}
		for range 20 {
			if _, err := c.get(t.Context(), f, cloud.Endpoint{}, ""); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
			time.Sleep(time.Second)
		}
		if runs != 10 {
			t.Errorf("%d runs in 20 s", runs)
		}
	})
}

// TestEvict: what no target uses any more is forgotten.
func TestEvict(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := newCache()
		for i := range 100 {
			f := &fetcher{key: fmt.Sprint(i), ttl: time.Minute, notYet: errExpired, fetch: func() (*cloud.Grant, error) {
				if i%2 == 0 {
					return nil, errors.New("none")
				}
				return cloud.Fixed("x", time.Time{}), nil
			}}
			_, _ = c.get(t.Context(), f, cloud.Endpoint{}, "") // the entry is the point
			time.Sleep(time.Minute)
		}
		if n := len(c.entries); n > 3 {
			t.Errorf("%d entries", n)
		}
	})
}

// TestCloudFromEnvironment: DATA_SOURCE_CLOUD_AUTH gives the password, whatever names the server.
func TestCloudFromEnvironment(t *testing.T) {
	const unprotected = "DATA_SOURCE_CLOUD_AUTH needs sslmode verify-full, or a host that is a unix socket, 127.0.0.1 or ::1: whoever reads the token can use it"
	t.Setenv("HOME", t.TempDir())
	t.Setenv("PGPASSWORD", "hunter2")
	for _, test := range []struct {
		variables map[string]string
		want      string // the provider, or the error
	}{
		{map[string]string{"DATABASE_URL": "postgres://u@h/d?sslmode=verify-full", "DATA_SOURCE_CLOUD_AUTH": "azure"}, "azure"},
		{map[string]string{"DATA_SOURCE_NAME": "host=127.0.0.1 user=u", "DATA_SOURCE_CLOUD_AUTH": "gcp"}, "gcp"},
		{map[string]string{"DATA_SOURCE_URI": "h?sslmode=verify-full", "DATA_SOURCE_USER": "u", "DATA_SOURCE_CLOUD_AUTH": "aws"}, "aws"},
		{map[string]string{"POSTGRES_HOST": "/run/cloudsql", "POSTGRES_USER": "u", "DATA_SOURCE_CLOUD_AUTH": "gcp"}, "gcp"},
		{map[string]string{"DATABASE_URL": "postgres://u@h/d", "DATA_SOURCE_CLOUD_AUTH": "aws"}, unprotected},
		{map[string]string{"DATABASE_URL": "postgres://u@h/d", "DATA_SOURCE_CLOUD_AUTH": "aws", "DATA_SOURCE_CLOUD_AUTH_INSECURE": "false"}, unprotected},
		{map[string]string{"DATABASE_URL": "postgres://u@h/d", "DATA_SOURCE_CLOUD_AUTH": "aws", "DATA_SOURCE_CLOUD_AUTH_INSECURE": "true"}, "aws"},
		{
			map[string]string{"DATABASE_URL": "postgres://u@h/d", "DATA_SOURCE_CLOUD_AUTH": "aws", "DATA_SOURCE_CLOUD_AUTH_INSECURE": "hunter2"},
			"DATA_SOURCE_CLOUD_AUTH_INSECURE: must be true or false",
		},
		{
			map[string]string{"DATABASE_URL": "postgres://u@h/d", "DATA_SOURCE_CLOUD_AUTH_INSECURE": "true"},
			"DATA_SOURCE_CLOUD_AUTH_INSECURE: has no effect without DATA_SOURCE_CLOUD_AUTH",
		},
		{
			map[string]string{"DATABASE_URL": "postgres://u@h/d?sslmode=verify-full", "DATA_SOURCE_CLOUD_AUTH": "hunter2"},
			"DATA_SOURCE_CLOUD_AUTH: must be one of aws, gcp, azure",
		},
		{
			map[string]string{"DATABASE_URL": "postgres://u:hunter2@h/d?sslmode=verify-full", "DATA_SOURCE_CLOUD_AUTH": "aws"},
			"DATA_SOURCE_CLOUD_AUTH: there is a password as well: keep one of them",
		},
		{
			map[string]string{"DATA_SOURCE_NAME": "host=h user=u require_auth=oauth password=hunter2"},
			"DATA_SOURCE_NAME: require_auth oauth needs sslmode verify-full, or a host that is a unix socket, 127.0.0.1 or ::1: whoever reads the token can use it",
		},
	} {
		target, err := config.FromEnvironment(func(name string) string { return test.variables[name] }, config.Probing{})
		if err != nil {
			t.Fatal(err)
		}
		p := &fakeProvider{lifetime: time.Hour}
		store := NewStore(t.Context())
		store.providers = p
		source := store.For(target)
		err = VerifyEnvironment(target.Login.Environment)
		got := fmt.Sprint(err)
		if p.count() > 0 {
			t.Error("the provider is asked when the variables are verified")
		}
		if err == nil {
			password, err := passwordOf(t, source)
			if err != nil || password != "token-1" || !source.FetchesPassword() {
				t.Errorf("%v: %q, %v", test.variables, string(password), err)
				continue
			}
			got = string(p.asked[0].Provider)
		}
		if got != test.want {
			t.Errorf("%v:\n got %s\nwant %s", test.variables, got, test.want)
		}
	}
	target, err := config.FromEnvironment(func(name string) string {
		return map[string]string{"DATA_SOURCE_NAME": "host=127.0.0.1 user=u", "DATA_SOURCE_CLOUD_AUTH": "gcp"}[name]
	}, config.Probing{})
	if err != nil {
		t.Fatal(err)
	}
	store := NewStore(t.Context())
	store.providers = &fakeProvider{err: errors.New("no Google credentials found")}
	if _, err := passwordOf(t, store.For(target)); err == nil || err.Error() != "DATA_SOURCE_CLOUD_AUTH: no Google credentials found" {
		t.Errorf("without a token: %v", err)
	}
}
