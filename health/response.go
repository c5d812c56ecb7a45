// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package health

import (
	"encoding/json"
	"fmt"
	"net/http"
	"time"
)

// maxRendering is how many bodies with all targets and checks are rendered at once. A body of a thousand targets takes
// megabytes until it is complete. More at once would not be faster.
const maxRendering = 2

// response is a response that is complete and not yet sent.
type response struct {
	code        int
	contentType string
	body        []byte
}

// respond waits for the results of the subjects, renders them, and sends the response. While it waits it holds next to
// nothing, and at most maxRendering requests render. It aborts the request if the client leaves or the server shuts down.
func (h *Health) respond(w http.ResponseWriter, r *http.Request, s *subjects, render func([]component) response) {
	s.wait(r.Context())
	if h.rendering.Acquire(r.Context(), 1) != nil {
		panic(http.ErrAbortHandler) // an empty response would have status 200
	}
	rendered := func() response {
		defer h.rendering.Release(1)
		return render(s.components(h.monitor.Health()))
	}()
	h.send(w, rendered)
}

// send sends a response.
func (h *Health) send(w http.ResponseWriter, r response) {
	if r.code == http.StatusServiceUnavailable {
		retryAfter(w, h.monitor.Health().MaxAge)
	}
	w.Header().Set("Content-Type", r.contentType)
	w.WriteHeader(r.code)
	_, _ = w.Write(r.body) // ignored: the client may have gone
}

// jsonResponse returns a response with value as JSON.
func jsonResponse(code int, contentType string, value any) response {
	text, err := json.Marshal(value)
	if err != nil { // cannot happen: all fields can be encoded
		return response{http.StatusInternalServerError, "text/plain; charset=utf-8", []byte("cannot be shown\n")}
	}
	return response{code, contentType, append(text, '\n')}
}

// retryAfter sets the header Retry-After to d, in seconds, or to one second if d is shorter.
func retryAfter(w http.ResponseWriter, d time.Duration) {
	w.Header().Set("Retry-After", fmt.Sprintf("%.0f", max(1, d.Seconds())))
}
