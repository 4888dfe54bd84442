package api

import (
	"time"

	"connectrpc.com/connect"
	"github.com/prometheus/client_golang/prometheus"
)

// metrics are what is counted about calls.
type metrics struct {
	calls   *prometheus.CounterVec
	seconds *prometheus.HistogramVec
	streams *prometheus.GaugeVec
	panics  prometheus.Counter
}

func newMetrics(r prometheus.Registerer) metrics {
	m := metrics{
		calls: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "ingot_api_calls_total", Help: "Calls that ended, by method and status code.",
		}, []string{"method", "code"}),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "ingot_api_call_seconds", Help: "Duration of calls that are not streams.",
			Buckets: []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 10},
		}, []string{"method"}),
		streams: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "ingot_api_streams", Help: "Open streams by method.",
		}, []string{"method"}),
		panics: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "ingot_api_panics_total", Help: "Calls that ended because of a broken invariant; the log has the stack.",
		}),
	}
	r.MustRegister(m.calls, m.seconds, m.streams, m.panics)
	return m
}

func (m metrics) ended(c *call, took time.Duration, stream bool, err *connect.Error) {
	code := "ok"
	if err != nil {
		code = err.Code().String()
	}
	m.calls.WithLabelValues(c.method.Name, code).Inc()
	if !stream {
		m.seconds.WithLabelValues(c.method.Name).Observe(took.Seconds())
	}
}
