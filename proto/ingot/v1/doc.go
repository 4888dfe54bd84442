// Package ingotv1 is what Ingot's API has beyond metal-stack's v2: watching
// without gaps, and the services of the far ends (agents, leaves, sites).
package ingotv1
