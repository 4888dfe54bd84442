// Package machine holds the rules of a machine's life: the table of its
// states, sizes and placement, allocation, installation, release, and what is
// wrong with it. Rules are pure: they read and write through a store.Tx and
// are handed everything random or secret.
package machine
