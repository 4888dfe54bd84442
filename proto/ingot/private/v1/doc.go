// Package privatev1 has the messages that are stored and never listed: secrets
// cut out of wire messages, keys of pools, leases, and the parts that a wire
// message is joined from.
package privatev1
