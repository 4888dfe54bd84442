package cli

import "context"

func (r *resource) watchable() bool { return false }

func (k *call) watchList(ctx context.Context) error { return nil }
