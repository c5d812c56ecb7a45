// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package cloud

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"time"

	"cloud.google.com/go/compute/metadata"
	"golang.org/x/oauth2"
	"golang.org/x/oauth2/google"

	"pg_liveness_exporter/config"
)

// scopeCloudSQL lets a token log in to Cloud SQL, and do nothing else.
const scopeCloudSQL = "https://www.googleapis.com/auth/sqlservice.login"

const googleFile = "the file of Google's credentials (GOOGLE_APPLICATION_CREDENTIALS)"

// gcp gets a token from where Google's libraries look: the file of GOOGLE_APPLICATION_CREDENTIALS, gcloud's file, the metadata
// service. It does not ask whether this machine is one of Google's, as these libraries do once for the life of a process: GKE's
// metadata service begins to answer some seconds after a pod does.
func (p *Providers) gcp(ctx context.Context, identity *config.CloudAuth) (*Grant, error) {
	client := &http.Client{Transport: p.transport, Timeout: requestTimeout}
	scope := cmp.Or(identity.Scope, scopeCloudSQL)
	path := os.Getenv("GOOGLE_APPLICATION_CREDENTIALS")
	content, err := readGoogleFile(path)
	switch {
	case err != nil:
		return nil, err
	case content == nil:
		return fromGoogleMetadata(ctx, client, scope)
	}
	var file struct {
		Type google.CredentialsType `json:"type"`
	}
	invalid := &detailError{googleFile + " has no credentials that the exporter knows"}
	if json.Unmarshal(content, &file) != nil {
		return nil, invalid
	}
	ctx = context.WithValue(ctx, oauth2.HTTPClient, client)
	credentials, err := google.CredentialsFromJSONWithType(ctx, content, file.Type, scope)
	if err != nil {
		return nil, invalid
	}
	token, err := credentials.TokenSource.Token()
	if err != nil {
		return nil, googleError(err)
	}
	return bearer(token.AccessToken, token.Expiry)
}

// readGoogleFile returns the content of a file of credentials, or of gcloud's file if path is empty. It is nil if there is none.
func readGoogleFile(path string) ([]byte, error) {
	named := path != ""
	if !named {
		folder, err := os.UserHomeDir()
		if err != nil {
			return nil, nil
		}
		folder = filepath.Join(folder, ".config")
		if runtime.GOOS == "windows" {
			folder = os.Getenv("APPDATA")
		}
		path = filepath.Join(folder, "gcloud", "application_default_credentials.json")
	}
	content, err := config.ReadFile(path, maxToken)
	var fileErr *config.FileError
	switch {
	case err != nil && !named:
		return nil, nil
	case errors.As(err, &fileErr):
		return nil, &detailError{googleFile + ": " + fileErr.Unwrap().Error()}
	case err != nil:
		return nil, &detailError{googleFile + " cannot be read"}
	}
	return content, nil
}

// fromGoogleMetadata gets a token for the service account of this machine or pod.
func fromGoogleMetadata(ctx context.Context, client *http.Client, scope string) (*Grant, error) {
	var (
		undefined metadata.NotDefinedError
		refused   *metadata.Error
		reply     struct {
			AccessToken string `json:"access_token"`
			ExpiresIn   int    `json:"expires_in"` // in seconds
		}
	)
	ctx, cancel := context.WithTimeout(ctx, replyTimeout) // the library tries six times
	defer cancel()
	query := url.Values{"scopes": {scope}}
	text, err := metadata.NewClient(client).GetWithContext(ctx, "instance/service-accounts/default/token?"+query.Encode())
	switch {
	case errors.As(err, &undefined):
		return nil, &detailError{"no Google credentials found: no service account is attached"}
	case errors.As(err, &refused):
		return nil, because("Google's metadata service refuses the identity", "status-"+strconv.Itoa(refused.Code))
	case isPlaintext(err):
		return nil, &detailError{plaintextDetail}
	case err != nil:
		return nil, &detailError{"no Google credentials found"}
	case json.Unmarshal([]byte(text), &reply) != nil:
		return nil, &detailError{"no Google credentials found: what answers is not Google's metadata service"}
	}
	return bearer(reply.AccessToken, time.Now().Add(time.Duration(reply.ExpiresIn)*time.Second))
}

// googleError says in words why credentials of a file give no token. Of Google's response, it contains only the code.
func googleError(err error) error {
	var refused *oauth2.RetrieveError
	switch {
	case isPlaintext(err):
		return &detailError{plaintextDetail}
	case errors.As(err, &refused):
		var reply struct {
			Error string `json:"error"`
		}
		_ = json.Unmarshal(refused.Body, &reply) // without a code, the text has none
		return because("Google refuses the identity", cmp.Or(refused.ErrorCode, reply.Error))
	}
	return &detailError{"Google's token service cannot be reached, or gives no token for the identity"}
}
