// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package cloud

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"pg_liveness_exporter/config"
)

// secret is in everything that must not be shown.
const secret = "hunter2"

// providersWith returns providers in an environment that has env and nothing else that a provider looks at. Every connection
// to an address that is not on this machine leads to far, which may be nil. far speaks TLS.
func providersWith(t *testing.T, env map[string]string, far *httptest.Server) *Providers {
	t.Helper()
	home := t.TempDir()
	for _, pair := range os.Environ() {
		name, _, _ := strings.Cut(pair, "=")
		for _, prefix := range []string{"AWS_", "AZURE_", "GOOGLE_", "GCE_", "IDENTITY_", "MSI_", "IMDS_", "HTTP", "NO_PROXY", "http", "no_proxy", "HOME"} {
			if strings.HasPrefix(name, prefix) {
				unset(t, name)
			}
		}
	}
	t.Setenv("HOME", home)
	// The SDK's client of the metadata service has a dialer of its own.
	t.Setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", "http://127.0.0.1:1")
	t.Setenv("AWS_EC2_METADATA_DISABLED", "true") // unless the test is about it
	for name, value := range env {
		t.Setenv(name, value)
		if value == "" {
			unset(t, name)
		}
	}
	p := NewProviders()
	dial := p.transport.DialContext
	p.transport.DialContext = func(ctx context.Context, network, address string) (net.Conn, error) {
		if strings.HasPrefix(address, "127.0.0.1:") {
			return dial(ctx, network, address)
		}
		if far == nil {
			return nil, fmt.Errorf("no route to %s %s", address, secret)
		}
		return dial(ctx, network, far.Listener.Addr().String())
	}
	if far != nil && far.TLS != nil {
		roots := x509.NewCertPool()
		roots.AddCert(far.Certificate())
		p.transport.TLSClientConfig = &tls.Config{RootCAs: roots, ServerName: "example.com", MinVersion: tls.VersionTLS12}
	}
	return p
}

// unset takes a variable away until the test ends.
func unset(t *testing.T, name string) {
	t.Helper()
	t.Setenv(name, "")
	if err := os.Unsetenv(name); err != nil {
		t.Fatal(err)
	}
}

// write writes a file and returns its path.
func write(t *testing.T, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "file-"+secret)
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// fake serves a service of tokens. It reports a request that handle does not expect.
func fake(t *testing.T, handle http.HandlerFunc) *httptest.Server {
	t.Helper()
	s := httptest.NewServer(handle)
	t.Cleanup(s.Close)
	return s
}

// fakeTLS is fake with TLS.
func fakeTLS(t *testing.T, handle http.HandlerFunc) *httptest.Server {
	t.Helper()
	s := httptest.NewTLSServer(handle)
	t.Cleanup(s.Close)
	return s
}

// expect fails a request unless got is want.
func expect(t *testing.T, w http.ResponseWriter, what, got, want string) bool {
	t.Helper()
	if got != want {
		t.Errorf("%s: got %q, want %q", what, got, want)
		http.Error(w, secret, http.StatusForbidden)
		return false
	}
	return true
}

// fetch asks a provider, and fails the test if it takes longer than a probe may.
func fetch(t *testing.T, p *Providers, auth config.CloudAuth) (*Grant, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	grant, err := p.Fetch(ctx, &auth)
	if err != nil && strings.Contains(err.Error(), secret) {
		t.Errorf("the error holds a secret: %v", err)
	}
	return grant, err
}

// expectToken fails unless a provider gives this token, which ends in about an hour.
func expectToken(t *testing.T, p *Providers, auth config.CloudAuth, want string) {
	t.Helper()
	grant, err := fetch(t, p, auth)
	if err != nil {
		t.Fatal(err)
	}
	password, err := grant.Password(Endpoint{"h", 5432, "u"})
	if err != nil || string(password) != want {
		t.Errorf("got %q and %v, want %q", string(password), err, want)
	}
	expectLifetime(t, grant, time.Hour)
}

func expectLifetime(t *testing.T, grant *Grant, want time.Duration) {
	t.Helper()
	if got := time.Until(grant.Expires); got > want+time.Second || got < want-6*time.Minute { // the SDK takes 5 min off
		t.Errorf("it is valid for %s, want %s", got, want)
	}
}

// expectError fails unless a provider gives this error.
func expectError(t *testing.T, p *Providers, auth config.CloudAuth, want string) {
	t.Helper()
	if grant, err := fetch(t, p, auth); err == nil || err.Error() != want {
		t.Errorf("got %v and %v, want %q", grant != nil, err, want)
	}
}

// TestProxy: a proxy gets no request to this machine, its link or a metadata service, and no plaintext goes elsewhere.
func TestProxy(t *testing.T) {
	for url, want := range map[string]string{
		"http://169.254.169.254/latest":               "none",
		"http://[fd00:ec2::254]/latest":               "none",
		"http://169.254.170.2/v2":                     "none",
		"http://168.63.129.16/":                       "none",
		"http://127.0.0.1:2579/metadata":              "none",
		"http://localhost:40342/metadata":             "none",
		"http://metadata.google.internal/":            "none",
		"http://Metadata.Google.Internal.:80/":        "none",
		"https://169.254.169.254/":                    "none",
		"https://login.microsoftonline.com/":          "http://proxy.invalid:3128",
		"https://sts.amazonaws.com/":                  "http://proxy.invalid:3128",
		"https://internal.example.org/":               "none", // NO_PROXY
		"http://10.0.0.1/token":                       "refused",
		"http://identity.default.svc/token":           "refused",
		"http://metadata.google.internal.example.org": "refused",
		"http://169.254.169.254.example.org/":         "refused",
	} {
		t.Setenv("HTTP_PROXY", "http://proxy.invalid:3128")
		t.Setenv("HTTPS_PROXY", "http://proxy.invalid:3128")
		t.Setenv("NO_PROXY", "internal.example.org")
		request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
		if err != nil {
			t.Fatal(err)
		}
		got := "none"
		if through, err := proxy(request); err != nil {
			got = "refused"
		} else if through != nil {
			got = through.String()
		}
		if got != want {
			t.Errorf("%s: %s, want %s", url, got, want)
		}
	}
}

// TestNoProxyForMetadata: with a proxy in the environment, each provider's metadata service is reached directly.
func TestNoProxyForMetadata(t *testing.T) {
	var proxied atomic.Int32
	through := fake(t, func(w http.ResponseWriter, _ *http.Request) {
		proxied.Add(1)
		http.Error(w, secret, http.StatusBadGateway)
	})
	var asked atomic.Int32
	metadata := fake(t, func(w http.ResponseWriter, _ *http.Request) {
		asked.Add(1)
		http.Error(w, secret, http.StatusBadRequest)
	})
	for _, provider := range []config.Provider{config.ProviderAWS, config.ProviderGCP, config.ProviderAzure} {
		t.Run(string(provider), func(t *testing.T) {
			p := providersWith(t, map[string]string{
				"HTTP_PROXY": through.URL, "HTTPS_PROXY": through.URL, "http_proxy": through.URL, "https_proxy": through.URL,
				"AWS_CONTAINER_CREDENTIALS_RELATIVE_URI": "/v2/credentials/1",
			}, metadata)
			before := asked.Load()
			if _, err := fetch(t, p, config.CloudAuth{Provider: provider, Region: "eu-west-1", ClientID: t.Name()}); err == nil {
				t.Error("there is a token")
			}
			if asked.Load() == before {
				t.Error("the metadata service was not asked")
			}
		})
	}
	if n := proxied.Load(); n > 0 {
		t.Errorf("the proxy got %d requests", n)
	}
}

// TestPlaintext: a service of tokens that the environment puts elsewhere is not asked in plaintext, and the error says why.
func TestPlaintext(t *testing.T) {
	far := fake(t, func(_ http.ResponseWriter, r *http.Request) { t.Errorf("asked for %s", r.URL) })
	for _, test := range []struct {
		name     string
		provider config.Provider
		env      map[string]string
	}{
		{"STS", config.ProviderAWS, map[string]string{
			"AWS_WEB_IDENTITY_TOKEN_FILE": write(t, secret), "AWS_ROLE_ARN": "arn:aws:iam::1:role/r", "AWS_ENDPOINT_URL_STS": "http://sts.invalid",
		}},
		{"IMDS", config.ProviderAWS, map[string]string{"AWS_EC2_METADATA_DISABLED": "", "AWS_EC2_METADATA_SERVICE_ENDPOINT": "http://imds.invalid"}},
		{"Google's metadata", config.ProviderGCP, map[string]string{"GCE_METADATA_HOST": "metadata.invalid"}},
		{"an app of Azure", config.ProviderAzure, map[string]string{"IDENTITY_ENDPOINT": "http://identity.invalid", "IDENTITY_HEADER": secret}},
	} {
		t.Run(test.name, func(t *testing.T) {
			p := providersWith(t, test.env, far)
			expectError(t, p, config.CloudAuth{Provider: test.provider, Region: "eu-west-1", ClientID: t.Name()}, plaintextDetail)
		})
	}
}

// TestDeadline: a service that does not answer takes no longer than the context.
func TestDeadline(t *testing.T) {
	release := make(chan struct{})
	hanging := fake(t, func(_ http.ResponseWriter, r *http.Request) {
		select {
		case <-release:
		case <-r.Context().Done():
		}
	})
	t.Cleanup(func() { close(release) })
	for _, provider := range []config.Provider{config.ProviderAWS, config.ProviderGCP, config.ProviderAzure} {
		t.Run(string(provider), func(t *testing.T) {
			p := providersWith(t, map[string]string{"AWS_CONTAINER_CREDENTIALS_RELATIVE_URI": "/v2/credentials/1"}, hanging)
			ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
			defer cancel()
			began := time.Now()
			_, err := p.Fetch(ctx, &config.CloudAuth{Provider: provider, Region: "eu-west-1", ClientID: t.Name()})
			if err == nil || err.Error() != "the identity service did not answer in time" {
				t.Errorf("got %v", err)
			}
			if took := time.Since(began); took > 10*time.Second {
				t.Errorf("it took %s", took)
			}
		})
	}
}

// TestBearer: what is no token is refused.
func TestBearer(t *testing.T) {
	t.Parallel()
	later := time.Now().Add(time.Hour)
	for _, token := range []string{"", "a b", "a\x00b", "a\n", "a\x01", strings.Repeat("x", maxToken+1)} {
		if _, err := bearer(token, later); err == nil {
			t.Errorf("%.10q is a token", token)
		}
	}
	if _, err := bearer("a", time.Now()); err == nil {
		t.Error("an expired token is one")
	}
	if _, err := bearer(strings.Repeat("x", maxToken), later); err != nil {
		t.Error(err)
	}
}

// TestPanic: a panic of a provider's library is an error.
func TestPanic(t *testing.T) {
	broken := &Providers{} // without a transport
	if grant, err := broken.Fetch(t.Context(), &config.CloudAuth{Provider: config.ProviderAWS, Region: "eu-west-1"}); grant != nil || err == nil {
		t.Errorf("%v, %v", grant, err)
	}
}
