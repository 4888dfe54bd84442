package api

import (
	"context"

	adminv2 "github.com/metal-stack/api/go/metalstack/admin/v2"
	apiv2 "github.com/metal-stack/api/go/metalstack/api/v2"

	"github.com/ingot-cloud/ingot/machine"
	"github.com/ingot-cloud/ingot/network"
	"github.com/ingot-cloud/ingot/records"
	"github.com/ingot-cloud/ingot/store"
)

type partitions struct{ *Server }

var partitionFilter = newFilter[*apiv2.PartitionQuery, *apiv2.Partition](nil)

func (s partitions) Get(ctx context.Context, req *apiv2.PartitionServiceGetRequest) (*apiv2.PartitionServiceGetResponse, error) {
	p, err := records.Partitions.Get(s.view(ctx), req.GetId())
	return &apiv2.PartitionServiceGetResponse{Partition: p}, err
}

func (s partitions) List(ctx context.Context, req *apiv2.PartitionServiceListRequest) (*apiv2.PartitionServiceListResponse, error) {
	resp := &apiv2.PartitionServiceListResponse{}
	for p := range records.Partitions.All(s.view(ctx)) {
		if partitionFilter.match(req.GetQuery(), p) {
			resp.Partitions = append(resp.Partitions, p)
		}
	}
	return resp, nil
}

type adminPartitions struct{ *Server }

func (s adminPartitions) Create(ctx context.Context, req *adminv2.PartitionServiceCreateRequest) (*adminv2.PartitionServiceCreateResponse, error) {
	p := req.GetPartition()
	if err := given(p, "partition"); err != nil {
		return nil, err
	}
	if err := machine.CheckPartition(p); err != nil {
		return nil, err
	}
	p.Meta = newMeta(p.GetMeta().GetLabels())
	err := s.update(ctx, func(tx *store.Tx) error { return records.Partitions.Insert(tx, p) })
	return &adminv2.PartitionServiceCreateResponse{Partition: p}, err
}

func (s adminPartitions) Update(ctx context.Context, req *adminv2.PartitionServiceUpdateRequest) (*adminv2.PartitionServiceUpdateResponse, error) {
	var p *apiv2.Partition
	err := s.update(ctx, func(tx *store.Tx) (err error) {
		p, err = records.Partitions.Change(tx, req.GetId(), func(p *apiv2.Partition) error {
			if err := checkMeta("partition", p.GetId(), p.GetMeta(), req.GetUpdateMeta()); err != nil {
				return err
			}
			set(&p.Description, req.Description)
			if req.GetBootConfiguration() != nil {
				p.BootConfiguration = req.GetBootConfiguration()
			}
			setList(&p.DnsServers, req.GetDnsServers())
			setList(&p.NtpServers, req.GetNtpServers())
			setList(&p.MgmtServiceAddresses, req.GetMgmtServiceAddresses())
			updateLabels(p.Meta, req.GetLabels())
			return machine.CheckPartition(p)
		})
		return err
	})
	return &adminv2.PartitionServiceUpdateResponse{Partition: p}, err
}

func (s adminPartitions) Delete(ctx context.Context, req *adminv2.PartitionServiceDeleteRequest) (*adminv2.PartitionServiceDeleteResponse, error) {
	p, err := remove(ctx, s.Server, records.Partitions, req.GetId(), machine.PartitionUnused, network.DropFabric)
	return &adminv2.PartitionServiceDeleteResponse{Partition: p}, err
}

// Capacity reports all partitions, or one.
func (s adminPartitions) Capacity(ctx context.Context, req *adminv2.PartitionServiceCapacityRequest) (*adminv2.PartitionServiceCapacityResponse, error) {
	r := s.view(ctx)
	if req.Id != nil {
		if _, err := records.Partitions.Get(r, req.GetId()); err != nil {
			return nil, err
		}
	}
	resp := &adminv2.PartitionServiceCapacityResponse{}
	for p := range records.Partitions.All(r) {
		if req.Id == nil || req.GetId() == p.GetId() {
			resp.PartitionCapacity = append(resp.PartitionCapacity, &adminv2.PartitionCapacity{
				Partition:             p.GetId(),
				MachineSizeCapacities: machine.Capacity(r, p.GetId(), req.GetSize(), req.GetProject(), s.cfg.Now()),
			})
		}
	}
	return resp, nil
}
