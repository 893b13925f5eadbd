package signaling

import (
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"sotto/wire"
)

// metrics count what happens, never to whom: no label holds anything a user chose.
type metrics struct {
	registry      *prometheus.Registry
	links         prometheus.Gauge
	pending       prometheus.Gauge
	anonymous     prometheus.Gauge
	registrations prometheus.Counter
	accepted      *prometheus.CounterVec // by path: straight or stored; and by sender: named or nameless
	refusedTokens prometheus.Counter
	delivered     prometheus.Counter
	expired       prometheus.Counter
	bundles       *prometheus.CounterVec // by kyber: one_time or last_resort
	errors        *prometheus.CounterVec // by code
	sendSeconds   prometheus.Histogram
	scrubSeconds  prometheus.Histogram
}

func newMetrics() *metrics {
	m := &metrics{
		registry: prometheus.NewRegistry(),
		links: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "sotto_signaling_links", Help: "Authenticated links."}),
		pending: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "sotto_signaling_links_unauthenticated", Help: "Links that have not authenticated yet."}),
		anonymous: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "sotto_signaling_links_anonymous", Help: "Links that sealed envelopes come over."}),
		registrations: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "sotto_signaling_registrations_total", Help: "Accounts registered."}),
		accepted: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "sotto_signaling_envelopes_accepted_total", Help: "Envelopes answered with Sent: handed straight to the device, or stored."},
			[]string{"path", "sender"}),
		refusedTokens: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "sotto_signaling_delivery_tokens_refused_total", Help: "Requests of anonymous links refused because their delivery token was wrong."}),
		delivered: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "sotto_signaling_envelopes_acknowledged_total", Help: "Envelopes acknowledged by their device, and erased."}),
		expired: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "sotto_signaling_envelopes_expired_total", Help: "Envelopes erased because their time was up."}),
		bundles: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "sotto_signaling_bundles_total", Help: "Bundles handed out, by the kind of their Kyber key."},
			[]string{"kyber"}),
		errors: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "sotto_signaling_errors_total", Help: "Errors given to devices, by code."},
			[]string{"code"}),
		sendSeconds: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "sotto_signaling_send_seconds", Help: "From an envelope's arrival to Sent.",
			Buckets: prometheus.ExponentialBuckets(0.0005, 2, 12)}),
		scrubSeconds: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "sotto_signaling_erase_seconds", Help: "Time taken to remove erased envelopes from the store's files.",
			Buckets: prometheus.ExponentialBuckets(0.001, 4, 10)}),
	}
	m.registry.MustRegister(m.links, m.pending, m.anonymous, m.registrations, m.accepted, m.refusedTokens, m.delivered, m.expired, m.bundles, m.errors,
		m.sendSeconds, m.scrubSeconds)
	m.zero()
	return m
}

// zero shows counters before they have counted: a query finds 0, not nothing.
func (m *metrics) zero() {
	for _, sender := range []string{"named", "nameless"} {
		m.accepted.WithLabelValues(pathStraight, sender)
		m.accepted.WithLabelValues(pathStored, sender)
	}
	m.bundles.WithLabelValues("one_time")
	m.bundles.WithLabelValues("last_resort")
	for _, code := range wire.Error_Code_name {
		m.errors.WithLabelValues(code)
	}
}

func (m *metrics) sent(path string, named bool, since time.Time) {
	sender := "nameless"
	if named {
		sender = "named"
	}
	m.accepted.WithLabelValues(path, sender).Inc()
	m.sendSeconds.Observe(time.Since(since).Seconds())
}

func (m *metrics) failed(code wire.Error_Code) {
	m.errors.WithLabelValues(code.String()).Inc()
}

// MetricsHandler serves Prometheus metrics. Bind it where only operators reach it.
func (s *Server) MetricsHandler() http.Handler {
	return promhttp.HandlerFor(s.metrics.registry, promhttp.HandlerOpts{})
}
