// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package cloud

import (
	"cmp"
	"context"
	"net/http"
	"os"
	"regexp"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/azidentity"

	"pg_liveness_exporter/config"
)

// scopeAzureDatabase is that of Azure Database for PostgreSQL in Azure's public cloud.
const scopeAzureDatabase = "https://ossrdbms-aad.database.windows.net/.default"

// azure gets a token from Entra. The variables of the environment decide the source: the secret or certificate of an application
// (unless the configuration names another client), the federated token of a pod, otherwise the managed identity of the machine.
// The tools of developers, which azidentity's default chain runs as commands, are not asked.
func (p *Providers) azure(ctx context.Context, identity *config.CloudAuth) (*Grant, error) {
	credential, err := azureCredential(identity.ClientID, azcore.ClientOptions{
		Transport: &http.Client{Transport: p.transport, Timeout: requestTimeout},
		Retry:     policy.RetryOptions{MaxRetries: 1, RetryDelay: 200 * time.Millisecond},
		Telemetry: policy.TelemetryOptions{Disabled: true},
	})
	if err != nil {
		return nil, &detailError{"no Azure credentials found: the environment has only a part of them " +
			"(AZURE_TENANT_ID, AZURE_CLIENT_ID, AZURE_FEDERATED_TOKEN_FILE and others)"}
	}
	token, err := credential.GetToken(ctx, policy.TokenRequestOptions{Scopes: []string{cmp.Or(identity.Scope, scopeAzureDatabase)}})
	if err != nil {
		return nil, azureError(err, identity.ClientID)
	}
	return bearer(token.Token, token.ExpiresOn)
}

// hasSecret reports whether the environment has the secret or the certificate of a client. An empty clientID is any client.
func hasSecret(clientID string) bool {
	return (clientID == "" || clientID == os.Getenv("AZURE_CLIENT_ID")) &&
		(os.Getenv("AZURE_CLIENT_SECRET") != "" || os.Getenv("AZURE_CLIENT_CERTIFICATE_PATH") != "")
}

// isManaged reports whether a client's token comes from the machine, and not from Entra itself.
func isManaged(clientID string) bool {
	return !hasSecret(clientID) && os.Getenv("AZURE_FEDERATED_TOKEN_FILE") == ""
}

func azureCredential(clientID string, options azcore.ClientOptions) (azcore.TokenCredential, error) {
	switch {
	case hasSecret(clientID):
		return azidentity.NewEnvironmentCredential(&azidentity.EnvironmentCredentialOptions{ClientOptions: options})
	case !isManaged(clientID):
		return azidentity.NewWorkloadIdentityCredential(&azidentity.WorkloadIdentityCredentialOptions{ClientOptions: options, ClientID: clientID})
	}
	managed := &azidentity.ManagedIdentityCredentialOptions{ClientOptions: options}
	if id := cmp.Or(clientID, os.Getenv("AZURE_CLIENT_ID")); id != "" {
		managed.ID = azidentity.ClientID(id)
	}
	return azidentity.NewManagedIdentityCredential(managed)
}

// azureError says in words why there is no token for a client. Of Entra's response, it contains only the code.
func azureError(err error, clientID string) error {
	fileErr := readable("the file of the federated token (AZURE_FEDERATED_TOKEN_FILE)", os.Getenv("AZURE_FEDERATED_TOKEN_FILE"))
	switch code := regexp.MustCompile(`AADSTS[0-9]{1,10}`).FindString(err.Error()); {
	case isPlaintext(err):
		return &detailError{plaintextDetail}
	case code != "":
		return because("Entra refuses the identity", code)
	case fileErr != nil:
		return fileErr
	case !isManaged(clientID):
		return &detailError{"Entra cannot be reached"}
	}
	return &detailError{"no Azure credentials found"}
}
