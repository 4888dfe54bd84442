package ingotv1

// With these headers metal-boot vouches for where a call comes from that it
// passes on for a server. A machine's token counts only together with them;
// what a server itself says in them is dropped.
const (
	// LeafHeader holds the token of the leaf that passes the call on.
	LeafHeader = "Ingot-Leaf"
	// SourceHeader holds the server's address as the leaf saw it.
	SourceHeader = "Ingot-Source"
)
