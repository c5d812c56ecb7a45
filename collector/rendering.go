// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package collector

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

const (
	// maxRendering is how many scrapes of one target render at once. The compression takes a megabyte for each.
	maxRendering = 16
	// writeTimeout is how long sending a response may take.
	writeTimeout = 10 * time.Second
)

// response is a response that is complete and not yet sent. It implements http.ResponseWriter for promhttp. It does not change
// once it is rendered, and may be shared.
type response struct {
	header http.Header
	status int
	body   bytes.Buffer
	zip    *gzip.Writer // writes to body while a compressed response is rendered, otherwise nil
}

// Header implements http.ResponseWriter.
func (a *response) Header() http.Header { return a.header }

// WriteHeader implements http.ResponseWriter.
func (a *response) WriteHeader(status int) { a.status = status }

// Write implements http.ResponseWriter.
func (a *response) Write(p []byte) (int, error) {
	if a.zip != nil {
		return a.zip.Write(p)
	}
	return a.body.Write(p)
}

// newZip returns a writer for the fastest compression. promhttp offers only the default level. It makes a response an eighth
// smaller, and takes several times as much CPU time.
func newZip() any {
	zip, err := gzip.NewWriterLevel(nil, gzip.BestSpeed)
	if err != nil {
		panic(err) // there is no such level
	}
	return zip
}

// render renders the metrics of g in the format that the request accepts, compressed if zip is true. If own is not nil, it has
// a metric that counts errors.
func (e *Exporter) render(r *http.Request, g prometheus.Gatherer, own prometheus.Registerer, zip bool) *response {
	rendered := &response{header: make(http.Header), status: http.StatusOK}
	handler := promhttp.HandlerFor(g, promhttp.HandlerOpts{
		ErrorHandling:      promhttp.ContinueOnError,
		ErrorLog:           errorLog{e.options.Logger},
		Registry:           own,
		EnableOpenMetrics:  true,
		DisableCompression: true,
	})
	if zip {
		rendered.zip = e.zips.Get().(*gzip.Writer) //nolint:forcetypeassert // newZip's
		rendered.zip.Reset(&rendered.body)
	}
	handler.ServeHTTP(rendered, r)
	if zip {
		_ = rendered.zip.Close() // a bytes.Buffer takes everything
		e.zips.Put(rendered.zip)
		rendered.zip = nil
		rendered.header.Set("Content-Encoding", "gzip")
	}
	rendered.header.Add("Vary", "Accept-Encoding")
	return rendered
}

// send sends a response. Of a shared one, what clients have not read yet is held in its compressed form alone, and once for all of
// them, so that many clients that do not read take little memory.
func (e *Exporter) send(w http.ResponseWriter, r *http.Request, rendered *response) {
	// From now on only the client can be slow. The error is ignored: the response writers of tests have no deadlines.
	_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(writeTimeout))
	if err := rendered.writeTo(w, acceptsGzip(r.Header.Get("Accept-Encoding"))); err != nil {
		e.options.Logger.Debug("Client hung up before it had read all metrics")
	}
}

// writeTo writes the response, decompressed unless the client takes gzip. It returns the error of the client's connection. Any
// number of goroutines may call it at once.
func (a *response) writeTo(w http.ResponseWriter, takesGzip bool) error {
	body := io.Reader(bytes.NewReader(a.body.Bytes()))
	maps.Copy(w.Header(), a.header)
	if a.header.Get("Content-Encoding") == "gzip" && !takesGzip {
		w.Header().Del("Content-Encoding")
		plain, err := gzip.NewReader(body)
		if err != nil {
			return err
		}
		body = plain
	}
	w.WriteHeader(a.status)
	_, err := io.Copy(w, body)
	return err
}

// acceptsGzip reports whether a header Accept-Encoding allows gzip.
func acceptsGzip(header string) bool {
	for offer := range strings.SplitSeq(header, ",") {
		coding, weight, _ := strings.Cut(offer, ";")
		if !strings.EqualFold(strings.TrimSpace(coding), "gzip") {
			continue
		}
		q, found := strings.CutPrefix(strings.TrimSpace(weight), "q=")
		quality, err := strconv.ParseFloat(q, 64)
		return !found || err == nil && quality > 0
	}
	return false
}

// errorLog implements promhttp.Logger with slog.
type errorLog struct{ logger *slog.Logger }

func (l errorLog) Println(v ...any) {
	l.logger.Error("Cannot show all metrics", "err", fmt.Sprint(v...))
}
