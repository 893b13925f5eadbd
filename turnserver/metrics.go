package turnserver

import "github.com/prometheus/client_golang/prometheus"

// metrics are what an operator sees. No label ever holds a user or an address: time-limited user names would make the series grow without
// end, and say who called.
type metrics struct {
	collectors []prometheus.Collector

	allocations prometheus.Gauge
	created     prometheus.Counter
	refreshed   prometheus.Counter
	connections prometheus.Gauge

	toPeer, toPeerBytes     prometheus.Counter
	fromPeer, fromPeerBytes prometheus.Counter

	offloaded, notOffloaded *prometheus.CounterVec // by the driver; without labels while there is none
	offloadChannels         *prometheus.GaugeVec

	refusedAuth, refusedQuota, refusedPeer, refusedPorts, refusedConnection, refusedDraining, refusedAllocation prometheus.Counter

	droppedMalformed, droppedSilenced, droppedNoAllocation, droppedNoChannel, droppedPeer, droppedPermission, droppedBandwidth, droppedPackets, droppedSize prometheus.Counter
}

func newMetrics() *metrics {
	m := &metrics{}
	gauge := func(name, help string) prometheus.Gauge {
		g := prometheus.NewGauge(prometheus.GaugeOpts{Namespace: "sotto", Subsystem: "turn", Name: name, Help: help})
		m.collectors = append(m.collectors, g)
		return g
	}
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		c := prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: "sotto", Subsystem: "turn", Name: name, Help: help}, labels)
		m.collectors = append(m.collectors, c)
		return c
	}
	m.allocations = gauge("allocations", "Allocations that live now.")
	m.connections = gauge("connections", "TCP, TLS and DTLS connections that are open now.")
	m.created = counter("allocations_total", "Allocations made.").WithLabelValues()
	m.refreshed = counter("refreshes_total", "Allocations refreshed or ended by their client.").WithLabelValues()

	packets := counter("relayed_packets_total", "Packets relayed.", "direction")
	bytes := counter("relayed_bytes_total", "Payload bytes relayed.", "direction")
	m.toPeer, m.toPeerBytes = packets.WithLabelValues("to_peer"), bytes.WithLabelValues("to_peer")
	m.fromPeer, m.fromPeerBytes = packets.WithLabelValues("from_peer"), bytes.WithLabelValues("from_peer")

	m.offloaded = counter("offload_packets_total",
		"Packets that the network driver relayed, of all that were.", "direction")
	m.notOffloaded = counter("offload_left_total",
		"Packets of its interfaces that the driver left to the system.", "reason")
	m.offloadChannels = prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Namespace: "sotto", Subsystem: "turn", Name: "offload_channels",
		Help: "Channels that the driver carries now, and others by the reason why not.",
	}, []string{"state"})
	m.collectors = append(m.collectors, m.offloadChannels)

	refused := counter("refused_total", "Requests and connections refused.", "reason")
	m.refusedAuth = refused.WithLabelValues("credential")
	m.refusedQuota = refused.WithLabelValues("quota")
	m.refusedPeer = refused.WithLabelValues("peer")
	m.refusedPorts = refused.WithLabelValues("ports")
	m.refusedDraining = refused.WithLabelValues("draining")
	m.refusedAllocation = refused.WithLabelValues("allocation")
	m.refusedConnection = refused.WithLabelValues("connections")

	dropped := counter("dropped_total", "Messages and packets dropped without an answer.", "reason")
	m.droppedMalformed = dropped.WithLabelValues("malformed")
	m.droppedSilenced = dropped.WithLabelValues("silenced")
	m.droppedNoAllocation = dropped.WithLabelValues("no_allocation")
	m.droppedNoChannel = dropped.WithLabelValues("no_channel")
	m.droppedPeer = dropped.WithLabelValues("peer")
	m.droppedPermission = dropped.WithLabelValues("no_permission")
	m.droppedBandwidth = dropped.WithLabelValues("bandwidth")
	m.droppedPackets = dropped.WithLabelValues("packets")
	m.droppedSize = dropped.WithLabelValues("size")
	return m
}

// Describe implements prometheus.Collector: register the Server with the registry that your program serves.
func (s *Server) Describe(ch chan<- *prometheus.Desc) {
	for _, c := range s.metrics.collectors {
		c.Describe(ch)
	}
}

// Collect implements prometheus.Collector.
func (s *Server) Collect(ch chan<- prometheus.Metric) {
	if s.offload != nil {
		s.offload.count()
	}
	for _, c := range s.metrics.collectors {
		c.Collect(ch)
	}
}
