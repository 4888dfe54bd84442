package main

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/ingot-cloud/ingot/store"
)

// storeMetrics shows what a store has counted.
type storeMetrics struct{ db *store.DB }

var (
	storeRecords  = prometheus.NewDesc("ingot_store_records", "Records by table.", []string{"table"}, nil)
	storeRevision = prometheus.NewDesc("ingot_store_revision", "Revision of the cache.", nil, nil)
	storeHeard    = prometheus.NewDesc("ingot_store_heard_seconds", "Time since the cache was known to be complete.", nil, nil)
	storeTxs      = prometheus.NewDesc("ingot_store_transactions_total", "Transactions by what happened to them.", []string{"outcome"}, nil)
	storeReloads  = prometheus.NewDesc("ingot_store_reloads_total", "Times the watch was lost and everything loaded again.", nil, nil)
)

// Describe implements prometheus.Collector.
func (m storeMetrics) Describe(ch chan<- *prometheus.Desc) { prometheus.DescribeByCollect(m, ch) }

// Collect implements prometheus.Collector.
func (m storeMetrics) Collect(ch chan<- prometheus.Metric) {
	s := m.db.Stats()
	for table, n := range s.Records {
		ch <- prometheus.MustNewConstMetric(storeRecords, prometheus.GaugeValue, float64(n), table)
	}
	ch <- prometheus.MustNewConstMetric(storeRevision, prometheus.GaugeValue, float64(s.Rev))
	ch <- prometheus.MustNewConstMetric(storeHeard, prometheus.GaugeValue, s.Heard.Seconds())
	ch <- prometheus.MustNewConstMetric(storeReloads, prometheus.CounterValue, float64(s.Reloads))
	for outcome, n := range map[string]int64{"committed": s.Commits, "conflict": s.Conflicts, "queued": s.Queued, "unknown": s.Unknown} {
		ch <- prometheus.MustNewConstMetric(storeTxs, prometheus.CounterValue, float64(n), outcome)
	}
}
