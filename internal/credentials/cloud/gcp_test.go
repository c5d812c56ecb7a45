// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package cloud

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"pg_liveness_exporter/config"
)

// workloadIdentity returns a file of a workload identity pool, as gcloud makes it. Its subject token is in a file.
func workloadIdentity(t *testing.T, subject string, more map[string]any) string {
	t.Helper()
	file := map[string]any{
		"type": "external_account", "audience": "//iam.googleapis.com/projects/1/locations/global/workloadIdentityPools/p/providers/q",
		"subject_token_type": "urn:ietf:params:oauth:token-type:jwt", "token_url": "https://sts.googleapis.com/v1/token",
		"credential_source": map[string]any{"file": subject},
	}
	for key, value := range more {
		file[key] = value
	}
	content, err := json.Marshal(file)
	if err != nil {
		t.Fatal(err)
	}
	return write(t, string(content))
}

// serviceAccount returns a file with the key of a service account.
func serviceAccount(t *testing.T) string {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	content, err := json.Marshal(map[string]string{
		"type": "service_account", "client_email": "liveness@p.iam.gserviceaccount.com", "token_uri": "https://oauth2.googleapis.com/token",
		"private_key": string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})),
	})
	if err != nil {
		t.Fatal(err)
	}
	return write(t, string(content))
}

// TestGCP: each way to a token that a pod or a machine of Google Cloud has, from the variables that it has.
func TestGCP(t *testing.T) {
	auth := config.CloudAuth{Provider: config.ProviderGCP}
	metadata := func(scope string) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			if expect(t, w, "flavor", r.Header.Get("Metadata-Flavor"), "Google") && expect(t, w, "scope", r.FormValue("scopes"), scope) &&
				expect(t, w, "path", r.URL.Path, "/computeMetadata/v1/instance/service-accounts/default/token") {
				w.Header().Set("Metadata-Flavor", "Google")
				fmt.Fprintf(w, `{"access_token": "%stoken", "expires_in": 3599, "token_type": "Bearer"}`, secret)
			}
		}
	}
	t.Run("the service account of a machine or of a pod (GKE)", func(t *testing.T) {
		p := providersWith(t, nil, fake(t, metadata(scopeCloudSQL))) // at 169.254.169.254
		expectToken(t, p, auth, secret+"token")
	})
	t.Run("a metadata service elsewhere, and another scope", func(t *testing.T) {
		const alloydb = "https://www.googleapis.com/auth/alloydb.login"
		server := fake(t, metadata(alloydb))
		p := providersWith(t, map[string]string{"GCE_METADATA_HOST": strings.TrimPrefix(server.URL, "http://")}, nil)
		expectToken(t, p, config.CloudAuth{Provider: config.ProviderGCP, Scope: alloydb}, secret+"token")
	})
	exchange := func(w http.ResponseWriter, r *http.Request, scope, token string) {
		if expect(t, w, "path", r.Host+r.URL.Path, "sts.googleapis.com/v1/token") && expect(t, w, "subject", r.FormValue("subject_token"), secret+"jwt") &&
			expect(t, w, "grant", r.FormValue("grant_type"), "urn:ietf:params:oauth:grant-type:token-exchange") && expect(t, w, "scope", r.FormValue("scope"), scope) {
			w.Header().Set("Content-Type", "application/json")
			fmt.Fprintf(w, `{"access_token": %q, "expires_in": 3599, "token_type": "Bearer", "issued_token_type": "urn:ietf:params:oauth:token-type:access_token"}`, token)
		}
	}
	t.Run("a workload identity file", func(t *testing.T) {
		google := fakeTLS(t, func(w http.ResponseWriter, r *http.Request) { exchange(w, r, scopeCloudSQL, secret+"token") })
		p := providersWith(t, map[string]string{"GOOGLE_APPLICATION_CREDENTIALS": workloadIdentity(t, write(t, secret+"jwt"), nil)}, google)
		expectToken(t, p, auth, secret+"token")
	})
	t.Run("a workload identity file that impersonates a service account", func(t *testing.T) {
		google := fakeTLS(t, func(w http.ResponseWriter, r *http.Request) {
			if r.Host != "iamcredentials.googleapis.com" {
				exchange(w, r, "https://www.googleapis.com/auth/cloud-platform", secret+"first")
				return
			}
			if expect(t, w, "token", r.Header.Get("Authorization"), "Bearer "+secret+"first") {
				fmt.Fprintf(w, `{"accessToken": "%stoken", "expireTime": %q}`, secret, time.Now().Add(time.Hour).UTC().Format(time.RFC3339))
			}
		})
		p := providersWith(t, map[string]string{"GOOGLE_APPLICATION_CREDENTIALS": workloadIdentity(t, write(t, secret+"jwt"), map[string]any{
			"service_account_impersonation_url": "https://iamcredentials.googleapis.com/v1/projects/-/serviceAccounts/a@p.iam.gserviceaccount.com:generateAccessToken",
		})}, google)
		expectToken(t, p, auth, secret+"token")
	})
	t.Run("the key of a service account", func(t *testing.T) {
		google := fakeTLS(t, func(w http.ResponseWriter, r *http.Request) {
			if expect(t, w, "path", r.Host+r.URL.Path, "oauth2.googleapis.com/token") && expect(t, w, "grant", r.FormValue("grant_type"), "urn:ietf:params:oauth:grant-type:jwt-bearer") {
				w.Header().Set("Content-Type", "application/json")
				fmt.Fprintf(w, `{"access_token": "%stoken", "expires_in": 3599, "token_type": "Bearer"}`, secret)
			}
		})
		p := providersWith(t, map[string]string{"GOOGLE_APPLICATION_CREDENTIALS": serviceAccount(t)}, google)
		expectToken(t, p, auth, secret+"token")
	})
	t.Run("gcloud's own file", func(t *testing.T) {
		google := fakeTLS(t, func(w http.ResponseWriter, r *http.Request) { exchange(w, r, scopeCloudSQL, secret+"token") })
		p := providersWith(t, nil, google)
		content, err := os.ReadFile(workloadIdentity(t, write(t, secret+"jwt"), nil))
		if err != nil {
			t.Fatal(err)
		}
		folder := filepath.Join(os.Getenv("HOME"), ".config", "gcloud")
		if err := os.MkdirAll(folder, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(folder, "application_default_credentials.json"), content, 0o600); err != nil {
			t.Fatal(err)
		}
		expectToken(t, p, auth, secret+"token")
	})
}

// TestGCPErrors: the error says in words what is missing.
func TestGCPErrors(t *testing.T) {
	auth := config.CloudAuth{Provider: config.ProviderGCP}
	host := func(handle http.HandlerFunc) map[string]string {
		return map[string]string{"GCE_METADATA_HOST": strings.TrimPrefix(fake(t, handle).URL, "http://")}
	}
	file := func(path string) map[string]string { return map[string]string{"GOOGLE_APPLICATION_CREDENTIALS": path} }
	refuse := func(status int) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) { http.Error(w, secret, status) }
	}
	answer := func(text string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, text) }
	}
	for _, test := range []struct {
		name string
		env  map[string]string
		want string
	}{
		{"nothing", nil, "no Google credentials found"},
		{"no service account", host(refuse(http.StatusNotFound)), "no Google credentials found: no service account is attached"},
		{"refused", host(refuse(http.StatusForbidden)), "Google's metadata service refuses the identity (status-403)"},
		{"not the metadata service", host(answer(secret)), "no Google credentials found: what answers is not Google's metadata service"},
		{"no token", host(answer(`{}`)), "the response of the identity service has no token"},
		{
			"an expired token",
			host(answer(`{"access_token": "` + secret + `", "expires_in": 0}`)), "the token that the identity service gives has expired: is the clock right?",
		},
		{"no file", file("/nonexistent/" + secret), googleFile + ": no such file or directory"},
		{"not a file of credentials", file(write(t, secret)), googleFile + " has no credentials that the exporter knows"},
		{"of an unknown type", file(write(t, `{"type": "`+secret+`"}`)), googleFile + " has no credentials that the exporter knows"},
		{"no subject token", file(workloadIdentity(t, "/nonexistent/"+secret, nil)), "Google's token service cannot be reached, or gives no token for the identity"},
		{"no token service", file(serviceAccount(t)), "Google's token service cannot be reached, or gives no token for the identity"},
	} {
		t.Run(test.name, func(t *testing.T) { expectError(t, providersWith(t, test.env, nil), auth, test.want) })
	}
	t.Run("Google refuses", func(t *testing.T) {
		google := fakeTLS(t, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(http.StatusBadRequest)
			fmt.Fprintf(w, `{"error": "invalid_grant", "error_description": %q}`, secret)
		})
		expectError(t, providersWith(t, file(serviceAccount(t)), google), auth, "Google refuses the identity (invalid_grant)")
	})
}

// TestStalledReply: a service that begins a reply and does not end it is given up. The library that reads the key of a service
// account gives its request no context.
func TestStalledReply(t *testing.T) {
	release := make(chan struct{})
	stalling := fakeTLS(t, func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusOK)
		w.(http.Flusher).Flush()
		<-release
	})
	t.Cleanup(func() { close(release) })
	p := providersWith(t, map[string]string{"GOOGLE_APPLICATION_CREDENTIALS": serviceAccount(t)}, stalling)
	done := make(chan error, 1)
	go func() {
		_, err := p.Fetch(t.Context(), &config.CloudAuth{Provider: config.ProviderGCP})
		done <- err
	}()
	select {
	case err := <-done:
		if err == nil {
			t.Error("there is a token")
		}
	case <-time.After(3 * requestTimeout):
		t.Error("the reply is still being read")
	}
}
