// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package cloud

import (
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"pg_liveness_exporter/config"
)

// resource is what a managed identity is asked for, in place of the scope.
const resource = "https://ossrdbms-aad.database.windows.net"

// managedToken answers as the metadata service does.
func managedToken(w http.ResponseWriter, token string) {
	w.Header().Set("Content-Type", "application/json")
	fmt.Fprintf(w, `{"access_token": %q, "expires_in": "3599", "expires_on": %q, "resource": %q, "token_type": "Bearer"}`,
		token, strconv.FormatInt(time.Now().Add(time.Hour).Unix(), 10), resource)
}

// entra answers as login.microsoftonline.com does. token answers a request for a token.
func entra(t *testing.T, token http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		const authority = "https://login.microsoftonline.com/"
		w.Header().Set("Content-Type", "application/json")
		switch {
		case strings.HasSuffix(r.URL.Path, "/discovery/instance"):
			fmt.Fprintf(w, `{"tenant_discovery_endpoint": "%[1]stenant/v2.0/.well-known/openid-configuration", "metadata": [{"preferred_network": `+
				`"login.microsoftonline.com", "preferred_cache": "login.windows.net", "aliases": ["login.microsoftonline.com"]}]}`, authority)
		case strings.HasSuffix(r.URL.Path, "/openid-configuration"):
			fmt.Fprintf(w, `{"token_endpoint": "%[1]stenant/oauth2/v2.0/token", "authorization_endpoint": "%[1]stenant/oauth2/v2.0/authorize", "issuer": "%[1]stenant/v2.0"}`, authority)
		case expect(t, w, "path", r.Host+r.URL.Path, "login.microsoftonline.com/tenant/oauth2/v2.0/token"):
			token(w, r)
		}
	}
}

// TestAzure: each way to a token that a pod or a machine of Azure has, from the variables that it has. Each test has an identity
// of its own, since MSAL keeps the tokens of managed identities for the life of the process.
func TestAzure(t *testing.T) {
	imds := func(clientID string) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			if expect(t, w, "host", r.Host, "169.254.169.254") && expect(t, w, "path", r.URL.Path, "/metadata/identity/oauth2/token") &&
				expect(t, w, "header", r.Header.Get("Metadata"), "true") && expect(t, w, "resource", r.FormValue("resource"), resource) &&
				expect(t, w, "client", r.FormValue("client_id"), clientID) {
				managedToken(w, secret+"token"+clientID)
			}
		}
	}
	t.Run("the identity of a machine", func(t *testing.T) {
		p := providersWith(t, nil, fake(t, imds("")))
		expectToken(t, p, config.CloudAuth{Provider: config.ProviderAzure}, secret+"token")
	})
	t.Run("one of several identities of a machine", func(t *testing.T) {
		p := providersWith(t, nil, fake(t, imds("client-1")))
		expectToken(t, p, config.CloudAuth{Provider: config.ProviderAzure, ClientID: "client-1"}, secret+"tokenclient-1")
	})
	t.Run("one of several that the environment names", func(t *testing.T) {
		p := providersWith(t, map[string]string{"AZURE_CLIENT_ID": "client-2"}, fake(t, imds("client-2")))
		expectToken(t, p, config.CloudAuth{Provider: config.ProviderAzure}, secret+"tokenclient-2")
	})
	t.Run("an app or a container", func(t *testing.T) {
		endpoint := fake(t, func(w http.ResponseWriter, r *http.Request) {
			if expect(t, w, "header", r.Header.Get("X-Identity-Header"), secret) && expect(t, w, "resource", r.FormValue("resource"), resource) {
				managedToken(w, secret+"app")
			}
		})
		p := providersWith(t, map[string]string{"IDENTITY_ENDPOINT": endpoint.URL + "/msi/token", "IDENTITY_HEADER": secret}, nil)
		expectToken(t, p, config.CloudAuth{Provider: config.ProviderAzure, ClientID: "client-3"}, secret+"app")
	})
	federated := func() map[string]string {
		return map[string]string{
			"AZURE_TENANT_ID": "tenant", "AZURE_CLIENT_ID": "client-4", "AZURE_FEDERATED_TOKEN_FILE": write(t, secret+"jwt"),
			"AZURE_AUTHORITY_HOST": "https://login.microsoftonline.com/",
		}
	}
	for _, test := range []struct{ name, clientID, want string }{
		{"the federated token of a pod (AKS)", "", "client-4"}, {"the federated token for another identity", "client-5", "client-5"},
	} {
		t.Run(test.name, func(t *testing.T) {
			server := fakeTLS(t, entra(t, func(w http.ResponseWriter, r *http.Request) {
				if expect(t, w, "assertion", r.FormValue("client_assertion"), secret+"jwt") && expect(t, w, "client", r.FormValue("client_id"), test.want) &&
					expect(t, w, "grant", r.FormValue("grant_type"), "client_credentials") &&
					expect(t, w, "scope", strings.Fields(r.FormValue("scope"))[0], scopeAzureDatabase) {
					fmt.Fprintf(w, `{"access_token": "%stoken", "expires_in": 3599, "ext_expires_in": 3599, "token_type": "Bearer"}`, secret)
				}
			}))
			p := providersWith(t, federated(), server)
			expectToken(t, p, config.CloudAuth{Provider: config.ProviderAzure, ClientID: test.clientID}, secret+"token")
		})
	}
	t.Run("the secret of an application", func(t *testing.T) {
		server := fakeTLS(t, entra(t, func(w http.ResponseWriter, r *http.Request) {
			if expect(t, w, "secret", r.FormValue("client_secret"), secret) {
				fmt.Fprintf(w, `{"access_token": "%stoken", "expires_in": 3599, "ext_expires_in": 3599, "token_type": "Bearer"}`, secret)
			}
		}))
		p := providersWith(t, map[string]string{"AZURE_TENANT_ID": "tenant", "AZURE_CLIENT_ID": "client-6", "AZURE_CLIENT_SECRET": secret}, server)
		expectToken(t, p, config.CloudAuth{Provider: config.ProviderAzure}, secret+"token")
	})
	t.Run("another client than that of the secret", func(t *testing.T) {
		p := providersWith(t, map[string]string{"AZURE_TENANT_ID": "tenant", "AZURE_CLIENT_ID": "client-8", "AZURE_CLIENT_SECRET": secret}, fake(t, imds("client-9")))
		expectToken(t, p, config.CloudAuth{Provider: config.ProviderAzure, ClientID: "client-9"}, secret+"tokenclient-9")
	})
	t.Run("Entra refuses", func(t *testing.T) {
		server := fakeTLS(t, entra(t, func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(http.StatusUnauthorized)
			fmt.Fprintf(w, `{"error": "invalid_client", "error_description": "AADSTS70021: No matching federated identity record found %s", "error_codes": [70021]}`, secret)
		}))
		expectError(t, providersWith(t, federated(), server), config.CloudAuth{Provider: config.ProviderAzure}, "Entra refuses the identity (AADSTS70021)")
	})
	t.Run("no Entra", func(t *testing.T) {
		expectError(t, providersWith(t, federated(), nil), config.CloudAuth{Provider: config.ProviderAzure}, "Entra cannot be reached")
	})
	t.Run("no file of the federated token", func(t *testing.T) {
		env := federated()
		env["AZURE_FEDERATED_TOKEN_FILE"] = "/nonexistent/" + secret
		p := providersWith(t, env, fakeTLS(t, entra(t, func(http.ResponseWriter, *http.Request) { t.Error("asked for a token") })))
		expectError(t, p, config.CloudAuth{Provider: config.ProviderAzure},
			"the file of the federated token (AZURE_FEDERATED_TOKEN_FILE) cannot be read: no such file or directory")
	})
	t.Run("a part of the variables", func(t *testing.T) {
		p := providersWith(t, map[string]string{"AZURE_FEDERATED_TOKEN_FILE": write(t, secret)}, nil)
		expectError(t, p, config.CloudAuth{Provider: config.ProviderAzure}, "no Azure credentials found: the environment has only a part of them "+
			"(AZURE_TENANT_ID, AZURE_CLIENT_ID, AZURE_FEDERATED_TOKEN_FILE and others)")
	})
	t.Run("no identity", func(t *testing.T) {
		server := fake(t, func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(http.StatusBadRequest)
			fmt.Fprintf(w, `{"error": "invalid_request", "error_description": "Identity not found %s"}`, secret)
		})
		expectError(t, providersWith(t, nil, server), config.CloudAuth{Provider: config.ProviderAzure, ClientID: "client-7"}, "no Azure credentials found")
	})
	t.Run("no metadata service", func(t *testing.T) {
		expectError(t, providersWith(t, nil, nil), config.CloudAuth{Provider: config.ProviderAzure, ClientID: "client-8"}, "no Azure credentials found")
	})
}
